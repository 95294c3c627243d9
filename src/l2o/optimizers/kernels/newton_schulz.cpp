// Matrices made about orthogonal by Newton-Schulz's iteration, each of which keeps its Frobenius norm.
//
// A matrix X of r rows and c columns, r <= c, lies transposed: Z = X^T is c rows of r numbers, padded with zeros to whole
// vectors. Then all products are sums of rows times numbers: A = X X^T = sum_k Z[k]^T Z[k], A A, and Z P for P symmetric.
// The bits of a result do not depend on the number of threads: each number is one sum, whoever makes it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr int64_t ROWS = 4;      // of a tile of sums, which is up to 4 vectors wide
constexpr int64_t STRIPE = 16;   // rows of a job, where one matrix is shared out among the threads
constexpr int64_t LONG = 2;      // a matrix of so many times more columns than rows goes through its Gram matrix,
constexpr int64_t FEW = 3;       // for so many iterations: after more, rounding would show in small singular values

struct Range { int64_t start, stop; };
struct Nothing {};

template <class T> int64_t width_of(int64_t rows, int64_t columns) {  // of a row of Z, in vectors
    return (std::min(rows, columns) + LANES<T> - 1) / LANES<T>;
}
template <class T> int64_t workspace(int64_t rows, int64_t columns) {  // of a matrix, in vectors
    return (2 * std::max(rows, columns) + 5 * std::min(rows, columns)) * width_of<T>(rows, columns);
}

// to[i] = sum_k a[i * row + k * column] b[k] for `rows` rows i, with rows of `width` vectors, WIDTH of them at a time.
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
// The same for some of the rows i, and for the vectors of each row from `first` on.
template <class T, int WIDTH>
void columns(Vec<T>* to, Range rows, int64_t width, const T* a, int64_t row, int64_t column, const Vec<T>* b, int64_t n) {
    int64_t i = rows.start;
    for (; i + ROWS <= rows.stop; i += ROWS) tile<T, WIDTH, ROWS>(to + i * width, width, a + i * row, row, column, b, n);
    for (; i < rows.stop; ++i) tile<T, WIDTH, 1>(to + i * width, width, a + i * row, row, column, b, n);
}
template <class T>
void product(Vec<T>* to, Range rows, int64_t width, const T* a, int64_t row, int64_t column, const Vec<T>* b, int64_t n, int64_t first = 0) {
    int64_t v = first;
    for (; v + 4 <= width; v += 4) columns<T, 4>(to + v, rows, width, a, row, column, b + v, n);
    for (; v + 2 <= width; v += 2) columns<T, 2>(to + v, rows, width, a, row, column, b + v, n);
    for (; v < width; ++v) columns<T, 1>(to + v, rows, width, a, row, column, b + v, n);
}

template <class T> T norm(const Vec<T>* x, int64_t vectors) {
    Vec<T> sum{};
    for (int64_t v = 0; v < vectors; ++v) sum += x[v] * x[v];
    return std::sqrt(total<T>(sum));
}

// The largest size of a number, or nan where one of them is not finite.
template <class T> T largest(const Vec<T>* x, int64_t vectors) {
    Vec<T> peak{}, none{};
    for (int64_t v = 0; v < vectors; ++v) {
        const Vec<T> size = x[v] < 0 ? -x[v] : x[v];
        peak = size > peak ? size : peak;
        none += x[v] * 0;
    }
    T found = 0;
    for (int64_t lane = 0; lane < LANES<T>; ++lane) found = std::max(found, peak[lane]);
    return found + total<T>(none);
}

// Runs the rows below `count` on the threads, some rows at a time.
template <class Run> void in_stripes(int64_t count, int64_t threads, const Run& run) {
    const int64_t stripes = (count + STRIPE - 1) / STRIPE;
    const auto one = [&](int64_t stripe) { run(Range{stripe * STRIPE, std::min(count, (stripe + 1) * STRIPE)}); };
    if (threads <= 1) {
        for (int64_t stripe = 0; stripe < stripes; ++stripe) one(stripe);
        return;
    }
    std::vector<Nothing> own(threads);
    parallel(stripes, threads, own, [&](int64_t stripe, Nothing&) { one(stripe); });
}

template <class T> struct Iteration {  // of one matrix X of r rows and c columns
    int64_t r, c, width, threads;
    T a, b, c2;                        // X <- a X + (b A + c2 A^2) X
    int64_t padded() const { return width * LANES<T>; }
    static const T* numbers(const Vec<T>* x) { return reinterpret_cast<const T*>(x); }

    // to = left right for r x r matrices, of which the left one is symmetric
    void times(Vec<T>* to, const Vec<T>* left, const Vec<T>* right) const {
        in_stripes(r, threads, [&](Range rows) { product<T>(to, rows, width, numbers(left), padded(), 1, right, r); });
    }
    // to = X X^T
    void gram(Vec<T>* to, const Vec<T>* z) const {
        in_stripes(r, threads, [&](Range rows) {  // what lies left of a stripe's own columns is what lies above the diagonal
            product<T>(to, rows, width, numbers(z), 1, padded(), z, c, rows.start / LANES<T>);
        });
        T* own = reinterpret_cast<T*>(to);
        for (int64_t i = 0; i < r; ++i)
            for (int64_t j = 0; j < i; ++j) own[i * padded() + j] = own[j * padded() + i];
    }
    // to = b A + c2 A^2 for the matrix A = gram, and a I more where `whole`
    void polynomial(Vec<T>* to, const Vec<T>* gram, bool whole) const {
        times(to, gram, gram);
        for (int64_t v = 0; v < r * width; ++v) to[v] = b * gram[v] + c2 * to[v];
        for (int64_t i = 0; whole && i < r; ++i) reinterpret_cast<T*>(to)[i * padded() + i] += a;
    }
    // to = P X + add X
    void apply(Vec<T>* to, const Vec<T>* p, const Vec<T>* z, T add) const {
        in_stripes(c, threads, [&](Range rows) {
            product<T>(to, rows, width, numbers(z), padded(), 1, p, r);
            if (add == 0) return;
            for (int64_t v = rows.start * width; v < rows.stop * width; ++v) to[v] += add * z[v];
        });
    }
    // Does the iterations one after another; z and next change places. room: 2 r x r matrices.
    void step_by_step(Vec<T>*& z, Vec<T>*& next, int64_t count, Vec<T>* room) const {
        Vec<T>* const p = room + r * width;
        for (int64_t k = 0; k < count; ++k, std::swap(z, next)) gram(room, z), polynomial(p, room, false), apply(next, p, z, a);
    }
    // X <- P_n ... P_1 X with P = a I + b A + c2 A^2, and A <- P A P from one iteration to the next, since both commute:
    // only two products have X in them. room: 5 r x r matrices.
    void through_gram(Vec<T>*& z, Vec<T>*& next, int64_t count, Vec<T>* room) const {
        const int64_t vectors = r * width;
        Vec<T> *of = room, *p = of + vectors, *all = p + vectors, *one = all + vectors, *two = one + vectors;
        gram(of, z);
        for (int64_t k = 0; k < count; ++k) {
            polynomial(p, of, true);
            if (k + 1 < count) times(one, p, of), times(two, one, p), std::swap(of, two);
            if (k) times(two, p, all), std::swap(all, two);
            else std::copy_n(p, vectors, all);
        }
        apply(next, all, z, 0);
        std::swap(z, next);
    }
};

template <class T>
void orthogonalise(T* x, int64_t rows, int64_t columns, int64_t iterations, const double* abc, int64_t threads, Vec<T>* z) {
    const int64_t r = std::min(rows, columns), c = std::max(rows, columns);
    const int64_t width = width_of<T>(rows, columns), padded = width * LANES<T>, vectors = c * width;
    Vec<T>*next = z + vectors, *const room = next + vectors;
    std::fill_n(z, vectors, Vec<T>{});
    const int64_t by_row = rows <= columns ? 1 : padded, by_column = rows <= columns ? padded : 1;
    const auto each = [&](Vec<T>* of, const auto& task) {  // every number of the matrix beside the same of its transpose
        T* numbers = reinterpret_cast<T*>(of);             // in squares, of which both sides lie in the cache
        for (int64_t top = 0; top < rows; top += STRIPE)
            for (int64_t left = 0; left < columns; left += STRIPE)
                for (int64_t i = top; i < std::min(rows, top + STRIPE); ++i)
                    for (int64_t j = left; j < std::min(columns, left + STRIPE); ++j)
                        task(x[i * columns + j], numbers[i * by_row + j * by_column]);
    };
    each(z, [&](T from, T& to) { to = from; });
    const T peak = largest<T>(z, vectors);
    if (peak == 0) return;
    if (!(peak <= std::numeric_limits<T>::max())) {  // as every number of the products would become
        std::fill_n(x, rows * columns, std::numeric_limits<T>::quiet_NaN());
        return;
    }
    std::fill_n(room, 5 * r * width, Vec<T>{});  // the numbers beyond r stay zeros
    for (int64_t v = 0; v < vectors; ++v) z[v] /= peak;
    const T length = std::max(norm<T>(z, vectors), T(1));
    for (int64_t v = 0; v < vectors; ++v) z[v] /= length;
    const Iteration<T> iteration{r, c, width, threads, T(abc[0]), T(abc[1]), T(abc[2])};
    if (c >= LONG * r && iterations <= FEW && iterations) iteration.through_gram(z, next, iterations, room);
    else iteration.step_by_step(z, next, iterations, room);
    const T scale = length / std::max(norm<T>(z, vectors), T(0.5));
    for (int64_t v = 0; v < vectors; ++v) z[v] = z[v] * scale * peak;
    each(z, [&](T& to, T from) { to = from; });
}

// x (B, P) is overwritten. matrices (count, 3): where a matrix begins, its rows, and its columns. Matrices are shared out
// among the threads; with `apart`, each is by itself, and its rows are shared out.
template <class T>
int orthogonalise_all(int64_t B, int64_t P, int64_t count, const int64_t* matrices, int64_t iterations, const double* abc, int64_t threads,
                      int64_t apart, T* x) {
    try {
        threads = std::max<int64_t>(1, threads);
        int64_t most = 0;
        for (int64_t i = 0; i < count; ++i) most = std::max(most, workspace<T>(matrices[3 * i + 1], matrices[3 * i + 2]));
        std::vector<Buffer<T>> work;  // made here: an exception in a thread of the pool would end the process
        while (int64_t(work.size()) < (apart ? 1 : std::max<int64_t>(1, std::min(threads, B * count)))) work.emplace_back(most);
        const auto one = [&](int64_t job, int64_t team, Buffer<T>& own) {
            const int64_t* matrix = matrices + job % count * 3;
            orthogonalise<T>(x + job / count * P + matrix[0], matrix[1], matrix[2], iterations, abc, team, own.data);
        };
        if (apart)
            for (int64_t job = 0; job < B * count; ++job) {
                const WithoutSubnormals here;
                one(job, threads, work[0]);
            }
        else parallel(B * count, threads, work, [&](int64_t job, Buffer<T>& own) { one(job, 1, own); });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                       \
    extern "C" int l2o_orthogonalise_##NAME(int64_t B, int64_t P, int64_t count, const int64_t* matrices, int64_t iterations, \
                                            const double* abc, int64_t threads, int64_t apart, T* x) {                       \
        return orthogonalise_all<T>(B, P, count, matrices, iterations, abc, threads, apart, x);                              \
    }
EXPORT(float32, float)
EXPORT(float64, double)
