// Small matrices made about orthogonal by Newton-Schulz's iteration, each of which keeps its Frobenius norm.
//
// A matrix X of r rows and c columns, r <= c, lies transposed: Z = X^T is c rows of r numbers, padded with zeros to whole
// vectors. Then all products are sums of rows times numbers: A = X X^T = sum_k Z[k]^T Z[k], A A, and Z P for P symmetric.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr int64_t ROWS = 4;  // of a tile of sums, which is up to 4 vectors wide

template <class T> int64_t padded_width(int64_t n) { return (n + LANES<T> - 1) / LANES<T>; }  // in vectors

template <class T> int64_t workspace(int64_t rows, int64_t columns) {  // of a matrix, in vectors
    return 2 * (rows + columns) * padded_width<T>(std::min(rows, columns));
}

// to[i] += sum_k a[i * row + k * column] b[k] for `rows` rows i, with rows of `width` vectors, WIDTH of them at a time.
template <class T, int WIDTH, int COUNT>
INLINE void tile(Vec<T>* to, int64_t width, const T* a, int64_t row, int64_t column, const Vec<T>* b, int64_t n) {
    Vec<T> sum[COUNT][WIDTH] = {};
    for (int64_t k = 0; k < n; ++k, a += column, b += width) {
        Vec<T> own[WIDTH];
        for (int v = 0; v < WIDTH; ++v) own[v] = loaded(b[v]);
        for (int i = 0; i < COUNT; ++i)
            for (int v = 0; v < WIDTH; ++v) sum[i][v] += a[i * row] * own[v];
    }
    for (int i = 0; i < COUNT; ++i)
        for (int v = 0; v < WIDTH; ++v) to[i * width + v] = sum[i][v];
}
template <class T, int WIDTH>
void columns(Vec<T>* to, int64_t rows, int64_t width, const T* a, int64_t row, int64_t column, const Vec<T>* b, int64_t n) {
    int64_t i = 0;
    for (; i + ROWS <= rows; i += ROWS) tile<T, WIDTH, ROWS>(to + i * width, width, a + i * row, row, column, b, n);
    for (; i < rows; ++i) tile<T, WIDTH, 1>(to + i * width, width, a + i * row, row, column, b, n);
}
template <class T>
void product(Vec<T>* to, int64_t rows, int64_t width, const T* a, int64_t row, int64_t column, const Vec<T>* b, int64_t n) {
    int64_t v = 0;
    for (; v + 4 <= width; v += 4) columns<T, 4>(to + v, rows, width, a, row, column, b + v, n);
    for (; v + 2 <= width; v += 2) columns<T, 2>(to + v, rows, width, a, row, column, b + v, n);
    for (; v < width; ++v) columns<T, 1>(to + v, rows, width, a, row, column, b + v, n);
}

template <class T> T norm(const Vec<T>* x, int64_t vectors) {
    Vec<T> sum{};
    for (int64_t v = 0; v < vectors; ++v) sum += x[v] * x[v];
    return std::sqrt(total<T>(sum));
}

template <class T> void orthogonalise(T* x, int64_t rows, int64_t columns, int64_t iterations, const double* abc, Vec<T>* z) {
    const int64_t size = rows * columns, r = std::min(rows, columns), c = std::max(rows, columns);
    const int64_t width = padded_width<T>(r), padded = width * LANES<T>, vectors = c * width;
    T peak = 0, bad = 0;
    for (int64_t i = 0; i < size; ++i) peak = std::max(peak, std::abs(x[i])), bad += x[i] * 0;
    if (bad != 0) {  // as every number of the products would become
        std::fill_n(x, size, std::numeric_limits<T>::quiet_NaN());
        return;
    }
    if (peak == 0) return;
    Vec<T> *next = z + vectors, *const gram = next + vectors, *const powers = gram + r * width;
    std::fill_n(z, vectors, Vec<T>{});
    const int64_t by_row = rows <= columns ? 1 : padded, by_column = rows <= columns ? padded : 1;
    const auto each = [&](Vec<T>* of, const auto& task) {  // every number of the matrix beside the same of its transpose
        T* numbers = reinterpret_cast<T*>(of);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) task(x[i * columns + j], numbers[i * by_row + j * by_column]);
    };
    each(z, [&](T from, T& to) { to = from / peak; });
    const T length = std::max(norm<T>(z, vectors), T(1));
    for (int64_t v = 0; v < vectors; ++v) z[v] /= length;
    const T a = T(abc[0]), b = T(abc[1]), c2 = T(abc[2]);
    for (int64_t iteration = 0; iteration < iterations; ++iteration, std::swap(z, next)) {
        product<T>(gram, r, width, reinterpret_cast<const T*>(z), 1, padded, z, c);
        product<T>(powers, r, width, reinterpret_cast<const T*>(gram), padded, 1, gram, r);
        for (int64_t v = 0; v < r * width; ++v) powers[v] = b * gram[v] + c2 * powers[v];
        product<T>(next, c, width, reinterpret_cast<const T*>(z), padded, 1, powers, r);
        for (int64_t v = 0; v < vectors; ++v) next[v] += a * z[v];
    }
    const T scale = length / std::max(norm<T>(z, vectors), T(0.5));
    each(z, [&](T& to, T from) { to = from * scale * peak; });
}

// x (B, P) is overwritten. matrices (count, 3): where a matrix begins, its rows, and its columns.
template <class T>
int orthogonalise_all(int64_t B, int64_t P, int64_t count, const int64_t* matrices, int64_t iterations, const double* abc, int64_t threads, T* x) {
    try {
        int64_t largest = 0;
        for (int64_t i = 0; i < count; ++i) largest = std::max(largest, workspace<T>(matrices[3 * i + 1], matrices[3 * i + 2]));
        std::vector<Buffer<T>> work;  // made here: an exception in a thread of the pool would end the process
        while (int64_t(work.size()) < std::max<int64_t>(1, std::min(threads, B * count))) work.emplace_back(largest);
        parallel(B * count, threads, work, [&](int64_t job, Buffer<T>& own) {
            const int64_t* matrix = matrices + job % count * 3;
            orthogonalise<T>(x + job / count * P + matrix[0], matrix[1], matrix[2], iterations, abc, own.data);
        });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                       \
    extern "C" int l2o_orthogonalise_##NAME(int64_t B, int64_t P, int64_t count, const int64_t* matrices, int64_t iterations, \
                                            const double* abc, int64_t threads, T* x) {                                      \
        return orthogonalise_all<T>(B, P, count, matrices, iterations, abc, threads, x);                                     \
    }
EXPORT(float32, float)
EXPORT(float64, double)
