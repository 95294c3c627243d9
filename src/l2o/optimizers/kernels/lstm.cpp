// Coordinatewise LSTM: one step, and the weight gradient of K steps (backpropagation through time).
//
//   gates = W_ih x + b_ih + W_hh h + b_hh          rows i, f, g, o (torch.nn.LSTMCell)
//   c' = s(f) c + s(i) tanh(g)     h' = s(o) tanh(c')     out = w . h'_top + b
//
// N coordinates share the weights. A block of B coordinates goes through all K steps and back inside the cache. In a
// block every quantity is a row of B numbers (NV vectors), one row per feature or unit: all arithmetic runs over
// coordinates. Gate rows are kept unit by unit (row 4j+q is gate q of unit j), so that the four gates of a unit leave
// the matrix product in registers and go straight into the nonlinearities. In memory, too, a feature or a unit is a row
// of all N coordinates: features (F, N), states (H, N).
//
// Determinism: coordinates are cut into chunks by N and K alone, each chunk sums its own weight gradient, and chunks are
// added in order. Threads only pick chunks, so the bits do not depend on their number; a step sums no coordinates.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

// A tile is 4 x MAX_TILE vectors of sums, which fit into the registers with a row of MAX_TILE vectors and a weight.
// A block is a whole number of tiles.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t MAX_TILE = 4;      // of 32 vector registers
template <int INPUTS> constexpr int MAX_ROWS = 5;  // vectors of gates in a tile of the outer products
constexpr int64_t BLOCK = 64;        // coordinates in a block,
constexpr int64_t STEP_BLOCK = 64;   // in one of a step on few coordinates, which stays in the first level's cache,
constexpr int64_t SMALL_BLOCK = 32;  // and in one of a long window, which keeps its steps: half the memory
#else
constexpr int64_t MAX_TILE = 3;      // of 16 registers
template <int INPUTS> constexpr int MAX_ROWS = INPUTS > 2 ? 2 : 4;
constexpr int64_t BLOCK = 72;
constexpr int64_t STEP_BLOCK = 48;
constexpr int64_t SMALL_BLOCK = 24;
#endif
constexpr int64_t FEW = 4096;        // coordinates whose states stay in the second level's cache
constexpr int64_t LONG = 40;         // steps
constexpr int64_t MAX_CHUNKS = 64;   // partial sums of the weight gradient,
constexpr int64_t CHUNK = 128;       // and about how many coordinates each of them has at least
constexpr int MAX_INPUTS = 5;        // in a tile of the outer products
constexpr int64_t KEPT = 1 << 22;    // bytes of a workspace that is kept from call to call

template <class T, int64_t B> constexpr int64_t NV = B * sizeof(T) / VECTOR_BYTES;            // vectors in a row
template <class T, int64_t B> constexpr int64_t TILE = std::min(MAX_TILE, NV<T, B>);  // of them in registers

// 2^y - 1 within +-limit. 2^-LIMIT is far below a rounding error of 1, and 2^(3 LIMIT) is finite, as is 2^(2 LIMIT)
// times a cell below 2^47 (it grows by at most 1 a step). A nan fails both comparisons and stays.
template <class T> constexpr T LIMIT = sizeof(T) == 4 ? 40 : 300;
template <class T> INLINE Vec<T> exp2m1(Vec<T> y, Vec<T> limit) {
    y = limit < y ? limit : y;
    y = -limit > y ? -limit : y;
    Vec<T> scale, rest;
    power_of_two<T>(y, scale, rest);
    return scale * rest + (scale - T(1));
}
// 1 + 2^y within the same limits, for 1 / (1 + 2^y): what that is off by is below a rounding error of 1.
template <class T> INLINE Vec<T> one_plus_exp2(Vec<T> y, Vec<T> limit) {
    y = limit < y ? limit : y;
    y = -limit > y ? -limit : y;
    return near_power_of_two<T>(y) + T(1);
}

// sum_k pack[4k + q] rows[k], added to four rows of TILE vectors. (Without parentheses clang reads "less than".)
template <class T, int64_t B>
INLINE void multiply(Vec<T> (&sum)[4][(TILE<T, B>)], const T* pack, const Vec<T>* rows, int64_t n) {
    constexpr int64_t tile = TILE<T, B>;
    for (int64_t k = 0; k < n; ++k, pack += 4, rows += NV<T, B>) {
        Vec<T> row[tile];
        for (int v = 0; v < tile; ++v) row[v] = loaded(rows[v]);
        for (int q = 0; q < 4; ++q)
            for (int v = 0; v < tile; ++v) sum[q][v] += pack[q] * row[v];
    }
}

// Four numbers, and four numbers anywhere in memory.
template <class T> struct Four {
    typedef T V __attribute__((vector_size(4 * sizeof(T)), may_alias));
    typedef T U __attribute__((vector_size(4 * sizeof(T)), may_alias, aligned(sizeof(T))));
};
template <class T> using Quad = typename Four<T>::V;
template <class T> using UnalignedQuad = typename Four<T>::U;

// The lanes of a (0 ... n - 1) and b (n ... 2 n - 1) that are named.
template <class T, class V, int... LANE> INLINE V shuffled(V a, V b, std::integer_sequence<int, LANE...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, LANE...);
#else
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Mask __attribute__((vector_size(sizeof(V))));
    return __builtin_shuffle(a, b, Mask{LANE...});
#endif
}
// Of each four lanes of a (0 ... 3) and of b (4 ... 7) those that are named.
template <class T, int I, int J, int K, int M, class V, int... LANE>
INLINE V mixed(V a, V b, std::integer_sequence<int, LANE...>) {
    constexpr int of[] = {I, J, K, M}, n = sizeof(V) / sizeof(T);
    return shuffled<T>(a, b, std::integer_sequence<int, of[LANE % 4] / 4 * n + LANE / 4 * 4 + of[LANE % 4] % 4 ...>{});
}
// Four rows become four columns, in each four lanes.
template <class T, class V> INLINE void exchange(V (&row)[4]) {
    constexpr auto lanes = std::make_integer_sequence<int, int(sizeof(V) / sizeof(T))>{};
    const V a = mixed<T, 0, 4, 1, 5>(row[0], row[1], lanes), b = mixed<T, 2, 6, 3, 7>(row[0], row[1], lanes);
    const V c = mixed<T, 0, 4, 1, 5>(row[2], row[3], lanes), d = mixed<T, 2, 6, 3, 7>(row[2], row[3], lanes);
    row[0] = mixed<T, 0, 1, 4, 5>(a, c, lanes), row[1] = mixed<T, 2, 3, 6, 7>(a, c, lanes);
    row[2] = mixed<T, 0, 1, 4, 5>(b, d, lanes), row[3] = mixed<T, 2, 3, 6, 7>(b, d, lanes);
}

// to[c][r] = from[r][c], with the given distances between rows.
template <class T>
void transpose(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
    const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 4)
        for (int64_t c = 0; c < whole_columns; c += 4) {
            Quad<T> column[4];
            for (int64_t k = 0; k < 4; ++k)
                column[k] = *reinterpret_cast<const UnalignedQuad<T>*>(from + (r + k) * from_row + c);
            exchange<T>(column);
            for (int64_t k = 0; k < 4; ++k)
                *reinterpret_cast<UnalignedQuad<T>*>(to + (c + k) * to_row + r) = column[k];
        }
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
            to[c * to_row + r] = from[r * from_row + c];
}

template <class T> struct Layer {
    int64_t inputs, units;
    T limit = LIMIT<T>;      // a variable: of a constant clamp gcc makes a comparison and a blend, not a minimum
    std::vector<T> forward, bias;  // [unit][input or unit][gate], [unit][gate]
    std::vector<T> to_x, to_h;     // transposed: [row / 4][gate row][row % 4], padded with zeros

    Layer(int64_t in, int64_t h, const T* const* w) : inputs(in), units(h), forward(4 * h * (in + h)), bias(4 * h) {
        // s(a) = 1 / (1 + 2^y), tanh(a) = 1 - 2 / (1 + 2^y)
        constexpr T scale[] = {-LOG2_E, -LOG2_E, 2 * LOG2_E, -LOG2_E};
        T* to = forward.data();
        for (int64_t j = 0; j < h; ++j, to += 4 * (in + h)) {
            transpose(w[0] + j * in, h * in, 4, in, to, 4);
            transpose(w[1] + j * h, h * h, 4, h, to + 4 * in, 4);
            for (int64_t q = 0; q < 4; ++q) bias[4 * j + q] = scale[q] * (w[2][q * h + j] + w[3][q * h + j]);
        }
        for (size_t i = 0; i < forward.size(); i += 4)
            for (int q = 0; q < 4; ++q) forward[i + q] *= scale[q];
    }
    std::vector<T> transposed(const T* w, int64_t columns) const {
        std::vector<T> pack((columns + 3) / 4 * 16 * units);
        for (int64_t k = 0; k < columns; ++k)
            for (int64_t j = 0; j < units; ++j)
                for (int64_t q = 0; q < 4; ++q)
                    pack[(k / 4 * 4 * units + 4 * j + q) * 4 + k % 4] = w[(q * units + j) * columns + k];
        return pack;
    }
};

// One layer for one block. The gradient keeps the activated gates [4 units] and tanh(c') [units].
template <class T, int64_t B, bool KEEP>
void layer_forward(const Layer<T>& layer, const Vec<T>* x, const Vec<T>* h, const Vec<T>* c, Vec<T>* new_h,
                   Vec<T>* new_c, Vec<T>* gates, Vec<T>* tanh_c) {
    using V = Vec<T>;
    constexpr int64_t nv = NV<T, B>, tile = TILE<T, B>;
    const V limit = V{} + layer.limit;
    for (int64_t j = 0; j < layer.units; ++j)
        for (int64_t v0 = 0; v0 < nv; v0 += tile) {
            const T* pack = &layer.forward[4 * j * (layer.inputs + layer.units)];
            V sum[4][tile];
            for (int q = 0; q < 4; ++q)
                for (int v = 0; v < tile; ++v) sum[q][v] = V{} + layer.bias[4 * j + q];
            multiply<T, B>(sum, pack, x + v0, layer.inputs);
            multiply<T, B>(sum, pack + 4 * layer.inputs, h + v0, layer.units);
            const int64_t at = j * nv + v0;
            const auto sigmoid = [&](int q) {  // stage by stage: independent work hides the latencies
                for (int v = 0; v < tile; ++v) sum[q][v] = one_plus_exp2<T>(sum[q][v], limit);
            };
            sigmoid(0), sigmoid(1);
            for (int v = 0; v < tile; ++v) sum[2][v] = exp2m1<T>(sum[2][v], limit);
            sigmoid(3);
            if constexpr (!KEEP) {  // one division for the cell, one for the output: each costs as much as ten products
                for (int v = 0; v < tile; ++v) {
                    const V f = sum[1][v], ig = sum[0][v] * (T(2) + sum[2][v]);
                    const V next = (c[at + v] * ig + sum[2][v] * f) / (f * ig);
                    const V t = exp2m1<T>(T(2 * LOG2_E) * next, limit);
                    new_c[at + v] = next;
                    new_h[at + v] = t / ((T(2) + t) * sum[3][v]);
                }
                continue;
            }
            V next[tile];
            for (int v = 0; v < tile; ++v) {
                const V i = sum[0][v], f = sum[1][v], g = T(2) + sum[2][v], o = sum[3][v];
                const V if_ = T(1) / (i * f), go = T(1) / (g * o);
                sum[0][v] = if_ * f, sum[1][v] = if_ * i, sum[2][v] *= go * o, sum[3][v] = go * g;
                new_c[at + v] = sum[1][v] * c[at + v] + sum[0][v] * sum[2][v];
            }
            for (int v = 0; v < tile; ++v) next[v] = exp2m1<T>(T(2 * LOG2_E) * new_c[at + v], limit);
            for (int v = 0; v < tile; ++v) {
                next[v] = next[v] / (T(2) + next[v]);
                new_h[at + v] = sum[3][v] * next[v];
                for (int q = 0; q < 4; ++q) gates[4 * j * nv + q * nv + v0 + v] = sum[q][v];
                tanh_c[at + v] = next[v];
            }
        }
}

// Gates become their gradients in place, dc becomes the gradient of the previous cell.
//   dc += dh o (1 - t^2),  di = dc g i(1-i),  df = dc c f(1-f),  dg = dc i (1-g^2),  do = dh t o(1-o),  dc <- dc f
template <class T, int64_t B>
void gates_backward(int64_t units, const Vec<T>* dh, const Vec<T>* c, const Vec<T>* tanh_c, Vec<T>* gates, Vec<T>* dc) {
    using V = Vec<T>;
    constexpr int64_t nv = NV<T, B>;
    for (int64_t j = 0; j < units; ++j, gates += 4 * nv)
        for (int64_t v = 0; v < nv; ++v) {
            V* const to = gates + v;
            const int64_t at = j * nv + v;
            const V i = to[0], f = to[nv], g = to[2 * nv], o = to[3 * nv], t = tanh_c[at], d = dh[at] * o;
            const V e = dc[at] + d * (T(1) - t * t), ei = e * i, ef = e * f;
            to[0] = ei * g * (T(1) - i);
            to[nv] = ef * c[at] * (T(1) - f);
            to[2 * nv] = ei * (T(1) - g * g);
            to[3 * nv] = d * t * (T(1) - o);
            dc[at] = ef;
        }
}

// dx (or dh) = W^T dgates, written or added.
template <class T, int64_t B>
void inputs_backward(const std::vector<T>& pack, int64_t units, const Vec<T>* gates, Vec<T>* dx, int64_t n, bool add) {
    constexpr int64_t nv = NV<T, B>, tile = TILE<T, B>;
    for (int64_t k = 0; k < n; k += 4)
        for (int64_t v0 = 0; v0 < nv; v0 += tile) {
            Vec<T> sum[4][tile] = {};
            multiply<T, B>(sum, &pack[k * 4 * units], gates + v0, 4 * units);
            for (int q = 0; q < 4 && k + q < n; ++q)
                for (int v = 0; v < tile; ++v) {
                    Vec<T>& to = dx[(k + q) * nv + v0 + v];
                    to = add ? to + sum[q][v] : sum[q][v];
                }
        }
}

// The vectors that hold one coordinate's gates of all units. What is left of the last one repeats gates of the last unit.
template <class T> constexpr int64_t UNITS = LANES<T> / 4;  // units in a vector, where it has four lanes or more
template <class T> int64_t gate_vectors(int64_t units) { return (4 * units + LANES<T> - 1) / LANES<T>; }

// Four numbers from each of UNITS places, by loads that insert: gcc would shuffle registers, where multiply-adds wait.
template <class T> INLINE Vec<T> gathered(const T* from, const int64_t* at) {
    const auto quad = [&](int unit) -> Quad<T> {
        return *reinterpret_cast<const UnalignedQuad<T>*>(from + at[unit]);
    };
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512((__m128)quad(0)), (__m128)quad(1), 1);
        return (Vec<T>)_mm512_insertf32x4(_mm512_insertf32x4(two, (__m128)quad(2), 2), (__m128)quad(3), 3);
    } else {
        return (Vec<T>)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)quad(0)), (__m256d)quad(1), 1);
    }
#else
#if defined(__AVX__)
    if constexpr (sizeof(T) == 4)
        return (Vec<T>)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)quad(0)), (__m128)quad(1), 1);
    else
#endif
        return (Vec<T>)quad(0);
#endif
}

// turned[n][4 j + q] = gates[4 j + q][n]: the gates of each coordinate become a row, in whole vectors. `total` grows by
// the sum of these rows.
template <class T, int64_t B> void turn(const Vec<T>* gates, int64_t units, Vec<T>* turned, Vec<T>* total) {
    const T* from = reinterpret_cast<const T*>(gates);
    T* to = reinterpret_cast<T*>(turned);
    const int64_t row = gate_vectors<T>(units) * LANES<T>;
    if constexpr (LANES<T> >= 4) {
        for (int64_t unit = 0; unit < units; unit += UNITS<T>, to += LANES<T>, ++total) {
            Vec<T> sum = *total;
            int64_t at[UNITS<T>];
            for (int64_t u = 0; u < UNITS<T>; ++u) at[u] = 4 * B * std::min(unit + u, units - 1);
            for (int64_t n = 0; n < B; n += 4) {
                Vec<T> rows[4];
                for (int q = 0; q < 4; ++q) rows[q] = gathered<T>(from + q * B + n, at);
                exchange<T>(rows);
                for (int i = 0; i < 4; ++i) store(to + (n + i) * row, rows[i]);
                sum += (rows[0] + rows[1]) + (rows[2] + rows[3]);
            }
            *total = sum;
        }
    } else {
        for (int64_t n = 0; n < B; ++n)
            for (int64_t r = 0; r < row; ++r) {
                const T gate = to[n * row + r] = from[r * B + n];
                reinterpret_cast<T*>(total)[r] += gate;
            }
    }
}

// dW^T[k][r] += sum over coordinates n of x[k][n] turned[n][r], for some of the inputs k and of the vectors r.
template <class T, int64_t B, int INPUTS, int ROWS>
INLINE void outer_tile(Vec<T>* dw, const T* x, const Vec<T>* turned, int64_t vectors) {
    Vec<T> sum[INPUTS][ROWS] = {};
    for (int64_t n = 0; n < B; ++n, ++x, turned += vectors) {
        Vec<T> row[ROWS];
        for (int r = 0; r < ROWS; ++r) row[r] = loaded(turned[r]);
        for (int k = 0; k < INPUTS; ++k) {
            const Vec<T> input = loaded(splat<T>(x[k * B]));
            for (int r = 0; r < ROWS; ++r) sum[k][r] += input * row[r];
        }
    }
    for (int k = 0; k < INPUTS; ++k)
        for (int r = 0; r < ROWS; ++r) dw[k * vectors + r] += sum[k][r];
}
// The same for all inputs and vectors. Gives the end of dW^T.
template <class T, int64_t B>
Vec<T>* outer(Vec<T>* dw, int64_t inputs, const Vec<T>* x, const Vec<T>* turned, int64_t vectors) {
    const auto in_tiles = [](int64_t count, int64_t& done, auto width, const auto& tile) {
        for (; done + width <= count; done += width) tile(width);
    };
    int64_t k = 0;
    const auto of_inputs = [&](auto some) {
        int64_t r = 0;
        const auto tile = [&](auto rows) {
            const T* const from = reinterpret_cast<const T*>(x) + k * B;
            outer_tile<T, B, some, rows>(dw + k * vectors + r, from, turned + r, vectors);
        };
        in_tiles(vectors, r, std::integral_constant<int, MAX_ROWS<some>>{}, tile);
        in_tiles(vectors, r, std::integral_constant<int, 2>{}, tile);
        in_tiles(vectors, r, std::integral_constant<int, 1>{}, tile);
    };
    in_tiles(inputs, k, std::integral_constant<int, MAX_INPUTS>{}, of_inputs);
    in_tiles(inputs, k, std::integral_constant<int, 2>{}, of_inputs);
    in_tiles(inputs, k, std::integral_constant<int, 1>{}, of_inputs);
    return dw + inputs * vectors;
}

// n rows of coordinates in memory, one `row` from the next <-> n rows of one block, which repeats the last coordinate
// where it is partial.
template <class T, int64_t B> void load_rows(Vec<T>* rows, const T* from, int64_t n, int64_t row, int64_t count) {
    T* to = reinterpret_cast<T*>(rows);
    for (int64_t k = 0; k < n; ++k, from += row, to += B)
        if (count == B)
            std::memcpy(to, from, B * sizeof(T));
        else
            std::fill(std::copy_n(from, count, to), to + B, from[count - 1]);
}
template <class T, int64_t B> void store_rows(T* to, const Vec<T>* rows, int64_t n, int64_t row, int64_t count) {
    const T* from = reinterpret_cast<const T*>(rows);
    for (int64_t k = 0; k < n; ++k, from += B, to += row) std::memcpy(to, from, count * sizeof(T));
}
template <class T, int64_t B> void prefetch(const T* from, int64_t n, int64_t row) {  // past an array: no effect
    for (int64_t k = 0; k < n; ++k, from += row)
        for (int64_t i = 0; i < B; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}

// The features (log |g| / p, sgn g) where |g| >= e^-p, else (-1, e^p g), of one block (`preprocessing.LogAndSign`). A
// nan counts as 0, an infinity as the largest number.
template <class T> struct LogAndSign {
    const bool wanted;        // else the features are given
    const T p, floor, steep;  // floor = e^-p, steep = e^p
    explicit LogAndSign(const double* of)  // outside of `parallel`: the floor may be subnormal
        : wanted(of), p(of ? of[0] : 1), floor(of ? of[1] : 0), steep(of ? of[2] : 1) {}
};
template <class T, int64_t B>
void load_features(Vec<T>* x, const T* from, int64_t n, int64_t row, int64_t count, const LogAndSign<T>& log_and_sign) {
    using V = Vec<T>;
    using Limits = std::numeric_limits<T>;
    if (!log_and_sign.wanted) return load_rows<T, B>(x, from, n, row, count);
    V *const log = x, *const sign = x + NV<T, B>;
    load_rows<T, B>(sign, from, 1, row, count);
    const T p = log_and_sign.p, floor = log_and_sign.floor, steep = log_and_sign.steep;
    for (int64_t v = 0; v < NV<T, B>; ++v) {
        const V g = clipped<T>(sign[v] == sign[v] ? sign[v] : V{}, Limits::max()), size = g < T(0) ? -g : g;
        log[v] = size <= floor ? V{} - T(1) : logarithm<T>(at_least<T>(size, Limits::min())) / p;
        sign[v] = clipped<T>(g * steep, T(1));
    }
}

// job(chunk, workspace) for every chunk. The workspaces stay where they are until the next call of the same caller's
// thread, unless they are large, or memory ran out: the system would take their pages away each time, and clear them
// again.
template <class T, class Job> void in_chunks(int64_t chunks, int64_t threads, int64_t workspace, const Job& job) {
    static thread_local std::vector<Buffer<T>> kept;
    std::vector<Buffer<T>> workspaces = std::exchange(kept, {});
    const int64_t busy = std::max<int64_t>(1, std::min(threads, chunks));
    for (int64_t t = 0; t < busy; ++t)
        if (t == int64_t(workspaces.size()))
            workspaces.emplace_back(workspace);
        else if (workspaces[t].vectors < workspace)
            workspaces[t] = Buffer<T>(workspace);
    parallel(chunks, threads, workspaces, [&](int64_t chunk, Buffer<T>& own) { job(chunk, own.data); });
    if (workspace * VECTOR_BYTES <= KEPT) kept = std::move(workspaces);
}

template <class T> std::vector<Layer<T>> pack_layers(int64_t F, int64_t H, int64_t L, const T* const* weights) {
    std::vector<Layer<T>> layers;
    for (int64_t l = 0; l < L; ++l) layers.emplace_back(l ? H : F, H, weights + 4 * l);
    return layers;
}

// The coordinates are those of G tasks, one task after another. Each task has weights of its own: `weights` holds the
// arrays of the first task, then those of the second, and so on. One task with all coordinates is the ordinary case.
template <class T, int64_t B>
void step(int64_t N, int64_t F, int64_t H, int64_t L, int64_t G, int64_t row, int64_t from_row, int64_t to_row,
          int64_t threads, T scale, const LogAndSign<T>& log_and_sign, const T* const* weights, const T* features,
          const T* const* hidden, const T* const* cell, T* out, T* const* new_hidden, T* const* new_cell) {
    using V = Vec<T>;
    constexpr int64_t nv = NV<T, B>;
    const int64_t arrays = 4 * L + 2, of_task = N / G, blocks_of_task = (of_task + B - 1) / B;
    std::vector<std::vector<Layer<T>>> packed;
    for (int64_t g = 0; g < G; ++g) packed.push_back(pack_layers(F, H, L, weights + g * arrays));
    const auto block_step = [&](int64_t number, V* work) {
        const int64_t g = number / blocks_of_task, n0 = g * of_task + number % blocks_of_task * B;
        const int64_t count = std::min(B, (g + 1) * of_task - n0);
        const std::vector<Layer<T>>& layers = packed[g];
        const T *head = weights[g * arrays + 4 * L], bias = *weights[g * arrays + 4 * L + 1];
        V *x = work, *h = x + F * nv, *c = h + H * nv, *new_c = c + H * nv;
        V *even = new_c + H * nv, *odd = even + H * nv, *total = odd + H * nv;
        load_features<T, B>(x, features + n0, F, row, count, log_and_sign);
        for (int64_t l = 0; l < L; ++l) {
            load_rows<T, B>(h, hidden[l] + n0, H, from_row, count);
            load_rows<T, B>(c, cell[l] + n0, H, from_row, count);
            const int64_t next = (l + 1) % L, at = next ? n0 : n0 + B;  // what is fetched during the arithmetic,
            if (N > FEW)  // unless all states are near: a thread would fetch the first ones of another, which writes to them
                for (const T* from : {hidden[next] + at, cell[next] + at}) prefetch<T, B>(from, H, from_row);
            layer_forward<T, B, false>(layers[l], x, h, c, even, new_c, nullptr, nullptr);
            store_rows<T, B>(new_hidden[l] + n0, even, H, to_row, count);
            store_rows<T, B>(new_cell[l] + n0, new_c, H, to_row, count);
            x = even;
            std::swap(even, odd);
        }
        for (int64_t v = 0; v < nv; ++v) {
            total[v] = V{} + bias;
            for (int64_t j = 0; j < H; ++j) total[v] += head[j] * x[j * nv + v];
            total[v] *= scale;
        }
        store_rows<T, B>(out + n0, total, 1, N, count);
    };
    in_chunks<T>(G * blocks_of_task, threads, (F + 5 * H + 1) * nv, block_step);
}

template <class T, int64_t B>
void window_gradient(int64_t N, int64_t F, int64_t H, int64_t L, int64_t row, int64_t step, int64_t from_row, int64_t K,
                     int64_t threads, T scale, const LogAndSign<T>& log_and_sign, const T* const* weights,
                     const T* features, const T* const* hidden, const T* const* cell, const T* cotangent,
                     T* const* gradient) {
    using V = Vec<T>;
    constexpr int64_t nv = NV<T, B>, lanes = VECTOR_BYTES / sizeof(T);
    const int64_t unit = H * nv, state = (K + 1) * unit, vectors = gate_vectors<T>(H);
    std::vector<Layer<T>> layers = pack_layers(F, H, L, weights);
    // A chunk's gradient: from the last layer to the first db, dW_hh^T and dW_ih^T, gates unit by unit, and at the end the
    // head's weight and bias, which are lanes that are still to be added up.
    int64_t of_layers = 0;
    for (int64_t l = 0; l < L; ++l) {
        layers[l].to_h = layers[l].transposed(weights[4 * l + 1], H);
        if (l) layers[l].to_x = layers[l].transposed(weights[4 * l], H);
        of_layers += vectors * (layers[l].inputs + H + 1);
    }
    const int64_t size = of_layers + H + 1, numbers = of_layers * lanes + H + 1;
    const T* head = weights[4 * L];
    const int64_t blocks = (N + B - 1) / B;
    const int64_t least = B < BLOCK ? 1 : CHUNK / B;  // a long window takes long enough for its sums not to matter
    const int64_t per_chunk = std::max<int64_t>(least, (blocks + MAX_CHUNKS - 1) / MAX_CHUNKS);
    const int64_t chunks = (blocks + per_chunk - 1) / per_chunk;
    std::vector<T> partial(chunks * numbers);

    const auto block_gradient = [&](int64_t n0, V* total, V* work) {
        const int64_t count = std::min(B, N - n0);
        V *x = work, *d = x + K * F * nv, *dh = d + K * nv, *dc = dh + L * unit, *turned = dc + L * unit;
        V* const kept = turned + B * vectors;
        const auto h = [&](int64_t l, int64_t t) { return kept + l * (7 * K + 2) * unit + t * unit; };
        const auto c = [&](int64_t l, int64_t t) { return h(l, 0) + state + t * unit; };
        const auto tanh_c = [&](int64_t l, int64_t t) { return c(l, 0) + state + t * unit; };
        const auto gates = [&](int64_t l, int64_t t) { return tanh_c(l, 0) + (K + 4 * t) * unit; };
        for (int64_t l = 0; l < L; ++l) {
            load_rows<T, B>(h(l, 0), hidden[l] + n0, H, from_row, count);
            load_rows<T, B>(c(l, 0), cell[l] + n0, H, from_row, count);
        }
        for (int64_t t = 0; t < K; ++t) {
            load_features<T, B>(x + t * F * nv, features + t * step + n0, F, row, count, log_and_sign);
            T* const to = reinterpret_cast<T*>(d + t * nv);
            std::fill(std::copy_n(cotangent + t * N + n0, count, to), to + B, T(0));
            for (int64_t l = 0; l < L; ++l)
                layer_forward<T, B, true>(layers[l], l ? h(l - 1, t + 1) : x + t * F * nv, h(l, t), c(l, t),
                                          h(l, t + 1), c(l, t + 1), gates(l, t), tanh_c(l, t));
        }
        std::fill(dh, turned, V{});
        V* const head_total = total + of_layers;
        for (int64_t t = K - 1; t >= 0; --t) {
            const V *dt = d + t * nv, *top = h(L - 1, t + 1);
            V* dtop = dh + (L - 1) * unit;
            for (int64_t v = 0; v < nv; ++v) head_total[H] += dt[v];
            for (int64_t j = 0; j < H; ++j)
                for (int64_t v = 0; v < nv; ++v, ++top, ++dtop) {
                    head_total[j] += dt[v] * *top;
                    *dtop += dt[v] * head[j];
                }
            V* to = total;
            for (int64_t l = L - 1; l >= 0; --l) {
                const int64_t in = layers[l].inputs;
                gates_backward<T, B>(H, dh + l * unit, c(l, t), tanh_c(l, t), gates(l, t), dc + l * unit);
                turn<T, B>(gates(l, t), H, turned, to);
                to += vectors;
                to = outer<T, B>(to, H, h(l, t), turned, vectors);
                to = outer<T, B>(to, in, l ? h(l - 1, t + 1) : x + t * in * nv, turned, vectors);
                if (t) inputs_backward<T, B>(layers[l].to_h, H, gates(l, t), dh + l * unit, H, false);
                if (l) inputs_backward<T, B>(layers[l].to_x, H, gates(l, t), dh + (l - 1) * unit, H, true);
            }
        }
    };
    const int64_t workspace = size + B * vectors + (K * (F + 1) + 2 * L * H + L * (7 * K + 2) * H) * nv;
    in_chunks<T>(chunks, threads, workspace, [&](int64_t chunk, V* total) {
        std::fill_n(total, size, V{});
        for (int64_t b = chunk * per_chunk; b < std::min(blocks, (chunk + 1) * per_chunk); ++b)
            block_gradient(b * B, total, total + size);
        T* const own = &partial[chunk * numbers];
        std::memcpy(own, total, of_layers * sizeof(V));
        for (int64_t j = 0; j <= H; ++j) own[of_layers * lanes + j] = ::total<T>(total[of_layers + j]);
    });

    for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t w = 0; w < numbers; ++w) partial[w] += partial[chunk * numbers + w];
    if (!chunks) partial.resize(numbers);
    for (int64_t w = 0; w < numbers; ++w) partial[w] *= scale;
    const T* from = partial.data();
    for (int64_t l = L - 1; l >= 0; --l)
        for (const int64_t p : {2, 1, 0}) {  // b_ih, W_hh, W_ih: back to gate by gate
            const int64_t columns = p == 0 ? layers[l].inputs : p == 1 ? H : 1;
            for (int64_t k = 0; k < columns; ++k, from += vectors * lanes)
                for (int64_t r = 0; r < 4 * H; ++r) gradient[4 * l + p][(r % 4 * H + r / 4) * columns + k] = from[r];
        }
    for (int64_t l = 0; l < L; ++l) std::copy_n(gradient[4 * l + 2], 4 * H, gradient[4 * l + 3]);
    std::copy_n(from, H, gradient[4 * L]);
    *gradient[4 * L + 1] = from[H];
}

template <class Call> int guarded(Call call) {  // 0, or 1 where memory ran out
    try {
        call();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// Sizes, a factor of the output or of the gradient, what makes features of gradients (null where they are given), then
// pointers: to the weights of each task, the features, L hidden states, L cells; then to the output, L new hidden states,
// L new cells, or to the cotangents and the gradient of each weight. A feature's row is `row` numbers from the next one's,
// a step's features are `step` numbers from the next one's; a unit's row of the state is `from` numbers from the next
// one's, of the new state `to`.
#define EXPORT(T, NAME)                                                                                               \
    extern "C" int l2o_step_##NAME(int64_t N, int64_t F, int64_t H, int64_t L, int64_t tasks, int64_t row, int64_t from,\
                                   int64_t to, int64_t threads, double scale, const double* constants,                \
                                   T* const* w) {                                                                     \
        T *const *const x = w + tasks * (4 * L + 2), *const *const h = x + 1, *const *const c = h + L;                \
        T *const *const out = c + L, *const *const new_h = out + 1, *const *const new_c = new_h + L;                  \
        const auto run = N > FEW ? step<T, BLOCK> : step<T, STEP_BLOCK>;                                              \
        return guarded([&] {                                                                                          \
            const LogAndSign<T> made(constants);                                                                      \
            run(N, F, H, L, tasks, row, from, to, threads, scale, made, w, *x, h, c, *out, new_h, new_c);             \
        });                                                                                                           \
    }                                                                                                                 \
    extern "C" int l2o_window_gradient_##NAME(int64_t N, int64_t F, int64_t H, int64_t L, int64_t row, int64_t step,  \
                                              int64_t from, int64_t K, int64_t threads, double scale,                 \
                                              const double* constants, T* const* w) {                                 \
        T *const *const x = w + 4 * L + 2, *const *const h = x + 1, *const *const c = h + L, *const *const d = c + L; \
        const auto run = K > LONG ? window_gradient<T, SMALL_BLOCK> : window_gradient<T, BLOCK>;                      \
        return guarded([&] {                                                                                          \
            run(N, F, H, L, row, step, from, K, threads, scale, LogAndSign<T>(constants), w, *x, h, c, *d, d + 1);    \
        });                                                                                                           \
    }
EXPORT(float, float32)
EXPORT(double, float64)
