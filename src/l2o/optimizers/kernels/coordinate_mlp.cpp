// One step of a rule that asks a small network about every coordinate: accumulators, features, their normalisation, the
// network, and the direction, in as few passes over memory as the statistics need.
//
//   pass 0   reads g:                   sums of g^2 over rows and columns, for the factored second moments
//   pass 1   reads g, p, the moments:   updates the moments, sums the squares of every feature
//   pass 2   reads g, p, the moments:   makes the features again, asks the network, writes the direction
//   pass 3   scales the direction, where it is normalised, too
//
// Tasks are independent, and so are tensors. An item is one tensor of one task. A small item goes through all passes
// on one thread, inside the cache; a large one is cut into units, which threads share out, pass by pass. A block of up
// to NV vectors of coordinates is what the arithmetic runs on: every feature and every unit of the network is a row of
// that many numbers.
//
// The normalisation of a feature is one number for a whole tensor (or matrix), and so it is folded into the first
// layer's weights; features that are the same for all coordinates of a task, those of the time, into its bias. What
// features of a row or a column add to the first layer is computed once for that row or column (`separate`). Small
// items are spared all that: their sums are rounded as plain torch rounds them (`fold_nothing`).
//
// A tensor with at least two axes is seen as (A, X, M, Y, C), where X and Y are its two largest axes, one of which is
// averaged over for each of the two factors. The sums over Y are called rows (A, X, M, C), those over X columns
// (A, M, Y, C).
//
// Determinism: items are cut into units by their shapes alone, and the units' sums are added in order. Threads only
// pick units, so the bits do not depend on their number.
#include <new>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr int64_t MAX_GROUPS = 16, MAX_FEATURES = 128, MAX_LAYERS = 16, MAX_TIMES = 16, MAX_DECAYS = 8;

// Groups of features, in the numbering of `coordinate_mlp.Feature`.
enum Group {
    GRAD, CLIPPED_GRAD, THETA, MOMENTA, SQUARES, SCALED_MOMENTA, ROOT, FACTORED_GRAD, SCALED_GRAD, ROWS, COLUMNS,
    RSQRT_ROWS, RSQRT_COLUMNS, FACTORED_MOMENTA, NUM_GROUPS
};

// What a rule is, for all steps alike. The three structures are mirrored by `coordinate_mlp_cpp`.
struct Recipe {
    int64_t momenta, squares, factors;     // how many decays of each kind; squares is 0 or 1
    int64_t num_groups, groups[MAX_GROUPS];
    int64_t num_layers, sizes[MAX_LAYERS + 1];  // of the network: inputs, units, ..., outputs
    int64_t num_times;
    int64_t matrices;                      // normalise over the last two axes, not over the tensor
    int64_t vectors;                       // tensors with fewer than two axes have the factors' features
    int64_t relative;                      // the direction is multiplied by the root mean square of theta
    double times[MAX_TIMES];
    double square_eps, vector_eps, norm_eps, exp_mult, output_eps;  // output_eps < 0: the direction is not normalised
};

// A tensor of the layout.
struct Geometry {
    int64_t size, factored, A, X, M, Y, C;
    int64_t rows_are_major;                // Y is the largest axis, X the second largest
    int64_t num_matrices;
    int64_t served, number;                // by the network, and as which one; else its moments alone are updated
    int64_t coordinate, major, minor, out; // where its share begins
    double limit;                          // what the size of a gradient is clipped to
};

struct Moment {                            // (decays, tasks, n): the distances between decays and between tasks
    const void* old;
    void* now;
    int64_t old_plane, old_row, plane, row;
};

struct Call {
    int64_t num_tasks, num_tensors, threads;
    const void *grad, *theta;
    void* out;
    int64_t grad_row, theta_row, out_row;
    Moment momenta, squares, major, minor;
    const void* decays[3];                 // of momenta, squares, factors
    int64_t decays_row[3];                 // 0, or the distance between tasks
    const void* weights[2 * MAX_LAYERS];   // weight, bias of each layer
    int64_t weights_row[2 * MAX_LAYERS];
    const void* step;                      // (tasks,)
    const void* scale;                     // (tasks, tensors), or null
    int64_t scale_row, scale_column;
};

constexpr int64_t NV = 4;                  // vectors in a block
constexpr int64_t AHEAD = 3 * NV;          // vectors that are fetched ahead
constexpr int64_t CHUNK = 1 << 14;         // coordinates in a unit of passes 1 to 3,
constexpr int64_t LARGE = 1 << 16;         // and in an item that is shared out among threads
constexpr int64_t SMALL = 512;             // coordinates in an item that is rounded as the authors' code rounds
constexpr int64_t NOWHERE = -(int64_t(1) << 62);
constexpr int64_t SLAB = 128;              // columns in a unit of pass 0
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t MAX_TILE = 4;            // 4 x 4 accumulators: 32 vector registers
#else
constexpr int64_t MAX_TILE = 2;            // 16 registers
#endif

int64_t parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

// A matrix (rows, n) in tiles of 4, 2 and 1 rows, each column by column: f(first row, rows of the tile, where it lies).
template <class F> INLINE void for_tiles(int64_t rows, int64_t n, const F& f) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) f(r, std::integral_constant<int, 4>(), r * n);
    if (r + 2 <= rows) f(r, std::integral_constant<int, 2>(), r * n), r += 2;
    if (r < rows) f(r, std::integral_constant<int, 1>(), r * n);
}

template <class T> struct Aligned {        // zeros at first; rows of vectors
    Vec<T>* data = nullptr;
    void allocate(int64_t vectors) {
        data = static_cast<Vec<T>*>(::operator new(std::max<int64_t>(1, vectors) * VECTOR_BYTES, std::align_val_t(VECTOR_BYTES)));
        std::fill(data, data + vectors, Vec<T>{});
    }
    Aligned() = default;
    Aligned(const Aligned&) = delete;
    Aligned(Aligned&& other) noexcept : data(other.data) { other.data = nullptr; }
    ~Aligned() { if (data) ::operator delete(data, std::align_val_t(VECTOR_BYTES)); }
};

// What belongs to one item while it is worked on.
template <class T> struct Scratch {
    std::vector<T> rows, columns;          // sums of units of pass 0
    std::vector<T> tables[2][3];           // of rows and columns: scale, value, rsqrt(value + 1e-8), for each decay
    std::vector<T> of_row, of_column;      // what their features add to the first layer: (rows, units), (units, columns)
    std::vector<double> sums, norms;       // of units of passes 1 and 2
};

// What belongs to one thread: rows of a block, and the first layer of one task and matrix.
template <class T> struct Work {
    Aligned<T> memory;
    Vec<T> *g, *p, *m, *v, *scale, *momentum_scale, *features, *even, *odd, *base, *ordered, *sums;
    std::vector<T> pack, bias, factors_of_features;
    bool asks;                               // the network, in pass 2
    int64_t run_begin, run_row, run_column;  // of the factors, where the last block ended
    Scratch<T> scratch;
};

template <class T> struct Item {
    const Geometry& shape;
    int64_t task;
    Scratch<T>& scratch;
    int64_t size() const { return shape.size / std::max<int64_t>(1, shape.num_matrices); }  // of a matrix
    int64_t chunks() const { return std::max<int64_t>(1, parts(size(), CHUNK)); }           // of a matrix
    int64_t together() const { return std::max<int64_t>(1, CHUNK / std::max<int64_t>(1, size())); }  // matrices in a unit
    int64_t units() const {
        return chunks() > 1 ? shape.num_matrices * chunks() : parts(shape.num_matrices, together());
    }
};

template <class T> class Step {
    using V = Vec<T>;
    static constexpr int64_t L = LANES<T>, STRIDE = NV + 1, BLOCK = NV * L;

    const Recipe& recipe;
    const Geometry* const shapes;
    const Call& call;
    int64_t row_of[NUM_GROUPS], num_features = 0, num_own = 0, used_outputs, widest = 1;
    std::vector<int64_t> column_of;        // the first layer's, for every row of features: a coordinate's own come first
    struct Far { Group group; int64_t decay; };
    std::vector<Far> far;                  // the rows after those, which are numbers of a row or a column
    std::vector<T> zeros;
    std::vector<T> packs, first_bias;      // of each task: all layers but the first, and the first one's bias
    int64_t pack_size = 0, pack_tasks = 1;

public:
    Step(const Recipe& recipe, const Geometry* shapes, const Call& call) : recipe(recipe), shapes(shapes), call(call) {
        std::fill(row_of, row_of + NUM_GROUPS, -1);
        for (bool wanted : {false, true}) {
            for (int64_t i = 0, column = 0; i < recipe.num_groups; column += width(recipe.groups[i++])) {
                const Group group = Group(recipe.groups[i]);
                if (is_far(group) != wanted) continue;
                row_of[group] = num_features;
                for (int64_t k = 0; k < width(group); ++k, ++num_features) {
                    column_of.push_back(column + k);
                    if (wanted) far.push_back({group, k});
                }
            }
            if (!wanted) num_own = num_features;
        }
        used_outputs = recipe.exp_mult != 0 ? 2 : 1;
        for (int64_t l = 0; l < recipe.num_layers; ++l) widest = std::max(widest, outputs(l));
        zeros.resize(outputs(0));
        pack_layers();
    }

    void run() {
        const WithoutSubnormals here;  // what is done between the passes over a large item, too: else its bits would differ
        std::vector<Item<T>> small, large;
        std::vector<Work<T>> works(std::max<int64_t>(1, call.threads));
        Scratch<T> shared;
        for (Work<T>& work : works) allocate(work);
        for (int64_t t = 0; t < call.num_tensors; ++t) {
            const bool is_large = shapes[t].size > LARGE && call.threads > 1;
            if (is_large) reserve(shared, shapes[t]);
            else for (Work<T>& work : works) reserve(work.scratch, shapes[t]);
            for (int64_t b = 0; b < call.num_tasks; ++b) (is_large ? large : small).push_back({shapes[t], b, shared});
        }
        for (const Item<T>& item : large)
            passes(item, [&](int64_t count, const auto& job) { parallel(count, call.threads, works, job); });
        parallel(int64_t(small.size()), call.threads, works, [&](int64_t i, Work<T>& work) {
            const Item<T> item{small[i].shape, small[i].task, work.scratch};
            passes(item, [&](int64_t count, const auto& job) { for (int64_t u = 0; u < count; ++u) job(u, work); });
        });
    }

private:
    static bool is_far(Group group) { return group == ROWS || group == COLUMNS || group == RSQRT_ROWS || group == RSQRT_COLUMNS; }
    // Whether what rows' and columns' features add to the first layer is computed once for each row and column, and not
    // for every coordinate: where it is less work.
    bool is_separable(const Geometry& s) const {
        return s.size > SMALL && recipe.factors && s.factored && s.C == 1 && s.M == 1 && std::min(s.X, s.Y) >= 16 && 2 * std::min(s.X, s.Y) >= outputs(0) &&
               (s.num_matrices == 1 || s.num_matrices == s.A);
    }
    static bool is_small(const Geometry& s) { return s.size <= SMALL; }
    int64_t rows_of_features(const Geometry& s) const { return is_separable(s) ? num_own : num_features; }
    int64_t width(int64_t group) const {
        switch (group) {
            case MOMENTA: case SCALED_MOMENTA: case FACTORED_MOMENTA: return recipe.momenta;
            case FACTORED_GRAD: case ROWS: case COLUMNS: case RSQRT_ROWS: case RSQRT_COLUMNS: return recipe.factors;
            default: return 1;
        }
    }
    int64_t outputs(int64_t layer) const { return layer + 1 == recipe.num_layers ? used_outputs : recipe.sizes[layer + 1]; }
    const T* weights(int64_t which, int64_t task) const {
        return static_cast<const T*>(call.weights[which]) + task * call.weights_row[which];
    }
    T decay(int kind, int64_t task, int64_t m) const {
        const T value = (static_cast<const T*>(call.decays[kind]) + task * call.decays_row[kind])[m];
        return kind == 0 ? value : value < 0 ? T(0) : value > 1 ? T(1) : value;
    }
    T limit(const Geometry& shape) const { return T(shape.limit); }

    // ------------------------------------------------------------------------------------------------- the network

    void pack_layers() {
        for (int64_t l = 1; l < recipe.num_layers; ++l) pack_size += outputs(l) * (recipe.sizes[l] + 1);
        for (int64_t i = 0; i < 2 * recipe.num_layers; ++i)
            if (call.weights_row[i]) pack_tasks = call.num_tasks;
        packs.resize(pack_size * pack_tasks);
        first_bias.resize(outputs(0) * call.num_tasks);
        for (int64_t task = 0; task < pack_tasks; ++task) {
            T* to = packs.data() + task * pack_size;
            for (int64_t l = 1; l < recipe.num_layers; ++l) {
                const int64_t n = recipe.sizes[l], rows = outputs(l);
                pack(weights(2 * l, task), n, rows, n, [](int64_t k) { return k; }, [](int64_t) { return T(1); }, to);
                std::copy_n(weights(2 * l + 1, task), rows, to + n * rows);
                to += rows * (n + 1);
            }
        }
        for (int64_t task = 0; task < call.num_tasks; ++task) {
            T times[MAX_TIMES];
            for (int64_t k = 0; k < recipe.num_times; ++k) times[k] = time(task, k);
            for (int64_t r = 0; r < outputs(0); ++r) {
                T sum = 0;
                for (int64_t k = 0; k < recipe.num_times; ++k)
                    sum += weights(0, task)[r * recipe.sizes[0] + num_features + k] * times[k];
                first_bias[task * outputs(0) + r] = sum + weights(1, task)[r];
            }
        }
    }

    template <class Column, class Scale>
    static void pack(const T* from, int64_t from_row, int64_t rows, int64_t n, const Column& column, const Scale& scale, T* to) {
        for_tiles(rows, n, [&](int64_t r, auto tile, int64_t at) {
            for (int64_t k = 0; k < n; ++k)
                for (int q = 0; q < tile; ++q) to[at + k * tile + q] = from[(r + q) * from_row + column(k)] * scale(k);
        });
    }

    // What a layer's sums begin with: base[unit][coordinate] + row[unit], or nothing.
    struct Start { const T *base, *row; int64_t stride; };

    template <int ROWS, int N, bool STARTED>
    static INLINE void layer_tile(const T* pack, const T* bias, const V* in, int64_t n, V* out, bool relu, const Start& start, int64_t r) {
        constexpr int TILE = N < MAX_TILE ? N : MAX_TILE;
        for (int v0 = 0; v0 < N; v0 += TILE) {
            V sum[ROWS][TILE];
            for (int q = 0; q < ROWS; ++q)
                for (int v = 0; v < TILE; ++v) {
                    if constexpr (STARTED) sum[q][v] = load(start.base + (r + q) * start.stride + (v0 + v) * L) + start.row[r + q];
                    else sum[q][v] = V{};
                }
            const V* row = in + v0;
            for (int64_t k = 0; k < n; ++k, row += STRIDE) {
                V x[TILE];
                for (int v = 0; v < TILE; ++v) x[v] = loaded(row[v]);
                for (int q = 0; q < ROWS; ++q) {
                    const V w = splat<T>(pack[k * ROWS + q]);
                    for (int v = 0; v < TILE; ++v) sum[q][v] += w * x[v];
                }
            }
            for (int q = 0; q < ROWS; ++q)
                for (int v = 0; v < TILE; ++v) {  // the bias comes last, as in the authors' code: its rounding shows
                    const V y = sum[q][v] + bias[q];
                    out[q * STRIDE + v0 + v] = relu ? (y < T(0) ? V{} : y) : y;
                }
        }
    }
    template <int N, bool STARTED = false>
    static void layer(const T* pack, const T* bias, const V* in, int64_t n, int64_t rows, V* out, bool relu, const Start& start = {}) {
        for_tiles(rows, n, [&](int64_t r, auto tile, int64_t at) {
            layer_tile<decltype(tile)::value, N, STARTED>(pack + at, bias + r, in, n, out + r * STRIDE, relu, start, r);
        });
    }
    template <int N> V* network(const Work<T>& work, int64_t task, bool is_small, const Start* start) const {
        const int64_t last = recipe.num_layers - 1;
        const T* pack = packs.data() + (pack_tasks > 1 ? task : 0) * pack_size;
        V *in = work.even, *out = work.odd;
        const T *first = work.pack.data(), *bias = work.bias.data();
        if (is_small) layer<N>(first, bias, work.ordered, recipe.sizes[0], outputs(0), in, last != 0);
        else if (start) layer<N, true>(first, bias, work.features, num_own, outputs(0), in, last != 0, *start);
        else layer<N>(first, bias, work.features, num_features, outputs(0), in, last != 0);
        for (int64_t l = 1; l <= last; ++l, std::swap(in, out)) {
            const int64_t n = recipe.sizes[l], rows = outputs(l);
            layer<N>(pack, pack + n * rows, in, n, rows, out, l != last);
            pack += rows * (n + 1);
        }
        return in;
    }

    // Fold the normalisation of one matrix into the first layer.
    void fold(const Item<T>& item, int64_t matrix, Work<T>& work) const {
        T* const scale = work.factors_of_features.data();
        find_scales(item, matrix, scale);
        if (is_small(item.shape)) return fold_nothing(item, work);
        const auto column = [&](int64_t k) { return column_of[k]; };
        pack(weights(0, item.task), recipe.sizes[0], outputs(0), rows_of_features(item.shape), column, [&](int64_t k) { return scale[k]; }, work.pack.data());
        std::copy_n(first_bias.data() + item.task * outputs(0), outputs(0), work.bias.data());
    }
    // A small item's features are normalised one by one, and those of the time stand beside them: so the sums are rounded
    // as in the authors' code, whose published trajectories can be met to the last digit.
    void fold_nothing(const Item<T>& item, Work<T>& work) const {
        const auto column = [](int64_t k) { return k; };
        const auto one = [](int64_t) { return T(1); };
        pack(weights(0, item.task), recipe.sizes[0], outputs(0), recipe.sizes[0], column, one, work.pack.data());
        std::copy_n(weights(1, item.task), outputs(0), work.bias.data());
        for (int64_t k = 0; k < recipe.num_times; ++k)
            std::fill_n(work.ordered + (num_features + k) * STRIDE, NV, splat<T>(time(item.task, k)));
    }
    template <int N> void normalise(Work<T>& work) const {
        for (int64_t f = 0; f < num_features; ++f)
            for (int v = 0; v < N; ++v)
                work.ordered[column_of[f] * STRIDE + v] = loaded(work.features[f * STRIDE + v] * work.factors_of_features[f]);
    }
    T time(int64_t task, int64_t k) const { return std::tanh(static_cast<const T*>(call.step)[task] / T(recipe.times[k]) - T(1)); }
    void find_scales(const Item<T>& item, int64_t matrix, T* scale) const {
        const double* sums = item.scratch.sums.data() + matrix * item.chunks() * num_features;
        for (int64_t f = 0; f < num_features; ++f)
            scale[f] = T(1) / std::sqrt(T(recipe.norm_eps) + T(summed(sums + f, item.chunks(), num_features) / double(item.size())));
    }
    static double summed(const double* from, int64_t count, int64_t stride) {
        double sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += from[i * stride];
        return sum;
    }

    // ---------------------------------------------------------------------------------------------------- memory

    void allocate(Work<T>& work) const {
        const int64_t M = recipe.momenta, R = recipe.factors, rows = 2 + M + 1 + 2 * R + num_features + 2 * widest + outputs(0) + recipe.sizes[0];
        work.memory.allocate(rows * STRIDE + num_features);
        V* at = work.memory.data;
        const auto take = [&](int64_t count) { V* own = at; at += count * STRIDE; return own; };
        work.features = take(num_features);
        const auto own = [&](Group group, int64_t count) {  // a feature is what it is made of
            return row_of[group] < 0 ? take(count) : work.features + row_of[group] * STRIDE;
        };
        work.g = own(GRAD, 1), work.p = own(THETA, 1), work.m = own(MOMENTA, M), work.v = own(SQUARES, 1);
        work.scale = take(R), work.momentum_scale = take(R), work.even = take(widest), work.odd = take(widest);
        work.base = take(outputs(0)), work.ordered = take(recipe.sizes[0]);
        work.sums = at;
        work.pack.resize(recipe.sizes[0] * outputs(0));
        work.factors_of_features.resize(num_features);
        work.bias.resize(outputs(0));
    }
    static int64_t padded(int64_t size) { return parts(size, L) * L + L; }
    void reserve(Scratch<T>& scratch, const Geometry& shape) const {
        const auto grow = [](auto& own, int64_t size) { if (int64_t(own.size()) < size) own.resize(size); };
        if (recipe.factors && shape.factored) {
            const Cuts cuts(shape);
            grow(scratch.rows, std::max<int64_t>(1, cuts.slabs) * rows(shape));  // an empty axis has a mean, too: 0
            grow(scratch.columns, std::max<int64_t>(1, cuts.bands) * columns(shape));
            for (auto& table : scratch.tables[0]) grow(table, recipe.factors * padded(rows(shape)));
            for (auto& table : scratch.tables[1]) grow(table, recipe.factors * padded(columns(shape)));
            if (shape.served && is_separable(shape)) {
                grow(scratch.of_row, rows(shape) * outputs(0));
                grow(scratch.of_column, outputs(0) * padded(columns(shape)));
            }
        }
        const Item<T> item{shape, 0, scratch};
        grow(scratch.sums, shape.num_matrices * item.chunks() * num_features);
        if (recipe.output_eps >= 0) grow(scratch.norms, shape.num_matrices * item.chunks());
    }
    static int64_t rows(const Geometry& s) { return s.A * s.X * s.M * s.C; }
    static int64_t columns(const Geometry& s) { return s.A * s.M * s.Y * s.C; }
    const T* grad(const Item<T>& item) const {
        return static_cast<const T*>(call.grad) + item.task * call.grad_row + item.shape.coordinate;
    }
    static const T* before(const Moment& moment, int64_t m, int64_t task, int64_t at) {
        return static_cast<const T*>(moment.old) + m * moment.old_plane + task * moment.old_row + at;
    }
    static T* after(const Moment& moment, int64_t m, int64_t task, int64_t at) {
        return static_cast<T*>(moment.now) + m * moment.plane + task * moment.row + at;
    }
    template <int N> static INLINE void fetch(V* to, const T* from, int64_t count) {
        if (count == N * L) {
            for (int v = 0; v < N; ++v) {
                __builtin_prefetch(from + (AHEAD + v) * L);  // past an array: no effect
                to[v] = load(from + v * L);
            }
        } else {
            for (int v = 0; v < N; ++v) to[v] = V{};
            std::memcpy(to, from, count * sizeof(T));
        }
    }
    template <int N> static INLINE void put(T* to, const V* from, int64_t count) {
        if (count == N * L) {
            for (int v = 0; v < N; ++v) store(to + v * L, from[v]);
        } else {
            std::memcpy(to, from, count * sizeof(T));
        }
    }

    // --------------------------------------------------------------------------------------------------- the passes

    template <class Run> void passes(const Item<T>& item, const Run& run) const {
        if (recipe.factors && item.shape.factored) {
            const Cuts cuts(item.shape);
            run(cuts.count, [&](int64_t u, Work<T>&) { sum_squares(item, cuts, u); });
            update_factors(item);
        }
        if (!item.shape.size) return;
        run(item.units(), [&](int64_t u, Work<T>& work) { for_matrices(item, u, [&](auto... at) { first(item, work, at...); }); });
        if (!item.shape.served) return;
        if (is_separable(item.shape)) separate(item);
        run(item.units(), [&](int64_t u, Work<T>& work) { for_matrices(item, u, [&](auto... at) { second(item, work, at...); }); });
        if (recipe.output_eps < 0) return;
        run(item.units(), [&](int64_t u, Work<T>&) { for_matrices(item, u, [&](auto... at) { third(item, at...); }); });
    }

    // f(matrix, chunk, start, stop) for what a unit holds.
    template <class F> static void for_matrices(const Item<T>& item, int64_t unit, const F& f) {
        const int64_t size = item.size(), chunks = item.chunks();
        if (chunks > 1) {
            const int64_t matrix = unit / chunks, chunk = unit % chunks, start = matrix * size + chunk * CHUNK;
            return f(matrix, chunk, start, std::min(start + CHUNK, (matrix + 1) * size));
        }
        const int64_t end = std::min(item.shape.num_matrices, (unit + 1) * item.together());
        for (int64_t matrix = unit * item.together(); matrix < end; ++matrix) f(matrix, int64_t(0), matrix * size, (matrix + 1) * size);
    }

    // f(N, start, count) for blocks of N vectors: whole ones as long as there are, then single vectors.
    template <class F> static INLINE void for_blocks(int64_t start, int64_t stop, const F& f) {
        for (; start + BLOCK <= stop; start += BLOCK) f(std::integral_constant<int, NV>(), start, BLOCK);
        for (; start < stop; start += L) f(std::integral_constant<int, 1>(), start, std::min(L, stop - start));
    }

    // ------------------------------------------------------------------------------------- pass 0: factored moments

    struct Cuts {                          // a unit is (a, band of X, m, slab of Y)
        int64_t slab, slabs, band, bands, count;
        explicit Cuts(const Geometry& s) {
            slab = std::max<int64_t>(SLAB / std::max<int64_t>(1, s.C), 64);
            slabs = parts(s.Y, slab);
            band = std::max<int64_t>(SLAB, CHUNK / std::max<int64_t>(1, std::min(slab, s.Y) * s.C));
            bands = parts(s.X, band);
            count = s.A * s.M * slabs * bands;
        }
    };

    void sum_squares(const Item<T>& item, const Cuts& cuts, int64_t unit) const {
        const Geometry& s = item.shape;
        const int64_t slab = unit % cuts.slabs, band = unit / cuts.slabs % cuts.bands, am = unit / (cuts.slabs * cuts.bands);
        const int64_t a = am / s.M, m = am % s.M, y = slab * cuts.slab, count = (std::min(y + cuts.slab, s.Y) - y) * s.C;
        T* column = item.scratch.columns.data() + band * columns(s) + (am * s.Y + y) * s.C;
        std::fill(column, column + count, T(0));
        for (int64_t x = band * cuts.band; x < std::min(s.X, (band + 1) * cuts.band); ++x) {
            const int64_t row = (a * s.X + x) * s.M + m;
            const T* g = grad(item) + (row * s.Y + y) * s.C;
            T* sums = item.scratch.rows.data() + slab * rows(s) + row * s.C;
            if (s.C == 1) {
                *sums = add_squares(g, limit(s), count, column);
                continue;
            }
            std::fill(sums, sums + s.C, T(0));
            for (int64_t j = 0; j < count; j += s.C)
                for (int64_t c = 0; c < s.C; ++c) {
                    const T clip = limit(s), own = g[j + c] > clip ? clip : g[j + c] < -clip ? -clip : g[j + c], q = own * own + T(1e-30);
                    sums[c] += q, column[j + c] += q;
                }
        }
    }
    static T add_squares(const T* g, T limit, int64_t count, T* column) {
        V sum = {};
        int64_t j = 0;
        for (; j + L <= count; j += L) {
            const V own = clipped<T>(load(g + j), limit), q = own * own + T(1e-30);
            sum += q;
            store(column + j, load(column + j) + q);
        }
        T last = 0;
        for (; j < count; ++j) {
            const T own = g[j] > limit ? limit : g[j] < -limit ? -limit : g[j], q = own * own + T(1e-30);
            last += q, column[j] += q;
        }
        return total<T>(sum) + last;
    }

    // The factors' new state, and the tables that blocks are filled from.
    void update_factors(const Item<T>& item) const {
        const Geometry& s = item.shape;
        const Cuts cuts(s);
        Scratch<T>& own = item.scratch;
        mean(own.rows, rows(s), cuts.slabs, s.Y);
        mean(own.columns, columns(s), cuts.bands, s.X);
        for (int64_t m = 0; m < recipe.factors; ++m) {
            const T beta = decay(2, item.task, m);
            const auto update = [&](const Moment& moment, int64_t at, bool by_rows) {
                const int64_t n = by_rows ? rows(s) : columns(s);
                const T *mean = (by_rows ? own.rows : own.columns).data(), *old = before(moment, m, item.task, at);
                T *now = after(moment, m, item.task, at), *value = own.tables[by_rows ? 0 : 1][1].data() + m * padded(n);
                for (int64_t i = 0; i < n; i += L) {
                    const V next = loaded(beta * load_some(old + i, n - i)) + (1 - beta) * load_some(mean + i, n - i);
                    store(value + i, next);
                    std::memcpy(now + i, &next, std::min(L, n - i) * sizeof(T));
                }
            };
            update(call.major, s.major, s.rows_are_major);
            update(call.minor, s.minor, !s.rows_are_major);
            if (s.served) fill_tables(s, own, m);
        }
    }
    static V load_some(const T* from, int64_t count) {
        if (count >= L) return load(from);
        V some = {};
        std::memcpy(&some, from, count * sizeof(T));
        return some;
    }
    static void mean(std::vector<T>& sums, int64_t n, int64_t count, int64_t over) {
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (int64_t k = 0; k < count; ++k) sum += sums[k * n + i];
            sums[i] = T(sum / double(std::max<int64_t>(1, over)));
        }
    }
    void fill_tables(const Geometry& s, Scratch<T>& own, int64_t m) const {
        const int64_t axis = s.rows_are_major ? s.X : s.Y, inner = s.rows_are_major ? s.M * s.C : s.C;
        for (int which = 0; which < 2; ++which) {
            const bool is_major = (which == 0) == bool(s.rows_are_major);
            const int64_t n = which == 0 ? rows(s) : columns(s), at = m * padded(n);
            T *scale = own.tables[which][0].data() + at, *value = own.tables[which][1].data() + at, *root = own.tables[which][2].data() + at;
            std::copy_n(value, n, scale);
            if (is_major && axis)
                for (int64_t first = 0; first < n; first += axis * inner)
                    for (int64_t i = first; i < first + inner; ++i) {
                        double sum = 0;
                        for (int64_t k = 0; k < axis; ++k) sum += value[i + k * inner];
                        const T mean = T(sum / double(axis)) + T(1e-9);
                        for (int64_t k = 0; k < axis; ++k) scale[i + k * inner] = value[i + k * inner] / mean;
                    }
            for (int64_t i = 0; i < n; i += L) {
                store(scale + i, rsqrt<T>(at_least<T>(load(scale + i), T(1e-9))));
                store(root + i, rsqrt<T>(load(value + i) + T(1e-8)));
            }
        }
    }

    // The sums of rows' and columns' features, and what these add to the first layer.
    void separate(const Item<T>& item) const {
        const Geometry& s = item.shape;
        Scratch<T>& own = item.scratch;
        const int64_t units = outputs(0), chunks = item.chunks(), group = s.A / s.num_matrices;  // of a's in a matrix
        for (int64_t a = 0; a < s.A; ++a) std::fill_n(own.of_row.data() + a * s.X * units, s.X * units, T(0));
        std::fill(own.of_column.begin(), own.of_column.end(), T(0));
        for (int64_t matrix = 0; matrix < s.num_matrices; ++matrix) {
            for (int64_t i = 0; i < int64_t(far.size()); ++i) {
                const auto [by_row, values] = far_values(item, i);
                const int64_t n = (by_row ? s.X : s.Y) * group;
                double sum = 0;
                for (int64_t k = 0; k < n; k += CHUNK) sum += sum_of_squares(values + matrix * n + k, std::min(CHUNK, n - k));
                for (int64_t chunk = 0; chunk < chunks; ++chunk)
                    own.sums[(matrix * chunks + chunk) * num_features + num_own + i] = chunk ? 0 : sum * double(by_row ? s.Y : s.X);
            }
            T scale[MAX_FEATURES];
            find_scales(item, matrix, scale);
            for (int64_t i = 0; i < int64_t(far.size()); ++i) {
                const auto [by_row, values] = far_values(item, i);
                const int64_t n = (by_row ? s.X : s.Y) * group, first = matrix * n, f = num_own + i;
                for (int64_t r = 0; r < units; ++r) {
                    const T w = weights(0, item.task)[r * recipe.sizes[0] + column_of[f]] * scale[f];
                    T* to = by_row ? own.of_row.data() + first * units + r : own.of_column.data() + r * padded(columns(s)) + first;
                    if (by_row) for (int64_t k = 0; k < n; ++k) to[k * units] += w * values[first + k];
                    else for (int64_t k = 0; k < n; ++k) to[k] += w * values[first + k];
                }
            }
        }
    }
    struct Values { bool by_row; const T* data; };
    Values far_values(const Item<T>& item, int64_t i) const {
        const Geometry& s = item.shape;
        const Group group = far[i].group;
        const bool by_row = (group == ROWS || group == RSQRT_ROWS) == bool(s.rows_are_major);
        const auto& table = item.scratch.tables[by_row ? 0 : 1][group == ROWS || group == COLUMNS ? 1 : 2];
        return {by_row, table.data() + far[i].decay * padded(by_row ? rows(s) : columns(s))};
    }
    static T sum_of_squares(const T* from, int64_t count) {
        V sum = {};
        int64_t i = 0;
        for (; i + L <= count; i += L) sum += load(from + i) * load(from + i);
        T last = 0;
        for (; i < count; ++i) last += from[i] * from[i];
        return total<T>(sum) + last;
    }

    // -------------------------------------------------------------------------------------- features of one block

    // A run of coordinates that share a row's numbers (C = 1), or along which rows and columns go on together.
    struct Run {
        int64_t begin, row, column;
        Run(const Geometry& s, int64_t at) {
            const int64_t run = length(s), number = at / run, y = s.C == 1 ? 0 : number % s.Y, line = s.C == 1 ? number : number / s.Y;
            const int64_t a = line / (s.X * s.M), m = line % s.M;
            begin = number * run, row = line * s.C, column = ((a * s.M + m) * s.Y + y) * s.C;
        }
        static int64_t length(const Geometry& s) { return s.C == 1 ? s.Y : s.C; }
    };

    // Spread rows' and columns' numbers over the coordinates start, ..., start + count - 1. Vectors are written whole:
    // what is too much is overwritten by the next run, or lies behind the block.
    template <int N> void spread(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        const Geometry& s = item.shape;
        const int64_t length = Run::length(s), stop = start + count;
        if (start < work.run_begin || start >= work.run_begin + length) find_run(item, work, start);
        for (int64_t at = start;;) {
            const int64_t inside = at - work.run_begin, own = std::min(length - inside, stop - at);
            if (is_separable(s)) {
                if (own == N * L) spread_run<true, true>(item, work, inside, 0, std::integral_constant<int64_t, N * L>());
                else spread_run<true, true>(item, work, inside, at - start, own);
                if (own < count && work.asks) spread_start(item, work, inside, at - start, own);
            } else if (s.C == 1) spread_run<true, false>(item, work, inside, at - start, own);
            else spread_run<false, false>(item, work, inside, at - start, own);
            at += own;
            if (at >= stop) return;
            find_run(item, work, at);
        }
    }
    // What rows and columns add to the first layer, where a block lies in more than one row.
    void spread_start(const Item<T>& item, Work<T>& work, int64_t inside, int64_t done, int64_t count) const {
        const T *row = item.scratch.of_row.data() + work.run_row * outputs(0), *column = item.scratch.of_column.data() + work.run_column + inside;
        T* to = reinterpret_cast<T*>(work.base) + done;
        for (int64_t r = 0; r < outputs(0); ++r, to += STRIDE * L, column += padded(columns(item.shape)))
            for (int64_t i = 0; i < count; i += L) store(to + i, load(column + i) + row[r]);
    }
    Start start_of(const Item<T>& item, const Work<T>& work, int64_t start, int64_t count) const {
        const int64_t inside = start - work.run_begin;
        if (inside >= 0 && inside + count <= item.shape.Y)
            return {item.scratch.of_column.data() + work.run_column + inside, item.scratch.of_row.data() + work.run_row * outputs(0), padded(columns(item.shape))};
        return {reinterpret_cast<const T*>(work.base), zeros.data(), STRIDE * L};
    }
    static void find_run(const Item<T>& item, Work<T>& work, int64_t at) {
        const Run run(item.shape, at);
        work.run_begin = run.begin, work.run_row = run.row, work.run_column = run.column;
    }
    template <bool ONE_ROW, bool SCALE_ALONE, class Count>
    INLINE void spread_run(const Item<T>& item, Work<T>& work, int64_t inside, int64_t done, Count count) const {
        const Geometry& s = item.shape;
        const auto& tables = item.scratch.tables;
        T* const features = reinterpret_cast<T*>(work.features);
        const auto at = [&](Group group) { return features + row_of[group] * STRIDE * L + done; };
        const bool r = s.rows_are_major;
        const int64_t row = work.run_row + (ONE_ROW ? 0 : inside), column = work.run_column + inside, M = recipe.factors;
        T *scale = reinterpret_cast<T*>(work.scale) + done, *value_row = at(r ? ROWS : COLUMNS), *value_column = at(r ? COLUMNS : ROWS);
        T *root_row = at(r ? RSQRT_ROWS : RSQRT_COLUMNS), *root_column = at(r ? RSQRT_COLUMNS : RSQRT_ROWS);
        const T *row_scale = tables[0][0].data() + row, *row_value = tables[0][1].data() + row, *row_root = tables[0][2].data() + row;
        const T *column_scale = tables[1][0].data() + column, *column_value = tables[1][1].data() + column, *column_root = tables[1][2].data() + column;
        const int64_t next_row = padded(rows(s)), next_column = padded(columns(s)), next = STRIDE * L;
        for (int64_t k = 0; k < M; ++k) {
            const auto each = [&](const T* from, int64_t i) { return ONE_ROW ? splat<T>(*from) : load(from + i); };
            for (int64_t i = 0; i < count; i += L) {
                store(scale + i, load(column_scale + i) * each(row_scale, i));
                if (SCALE_ALONE) continue;
                store(value_row + i, each(row_value, i));
                store(root_row + i, each(row_root, i));
                store(value_column + i, load(column_value + i));
                store(root_column + i, load(column_root + i));
            }
            scale += next, value_row += next, root_row += next, value_column += next, root_column += next;
            row_scale += next_row, row_value += next_row, row_root += next_row;
            column_scale += next_column, column_value += next_column, column_root += next_column;
        }
    }

    // A tensor with fewer than two axes has one second moment w in place of both factors.
    template <int N> void spread_vector(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        for (int64_t k = 0; k < recipe.factors; ++k) {
            V w[N];
            fetch<N>(w, after(call.major, k, item.task, item.shape.major + start), count);
            for (int v = 0; v < N; ++v) {
                const int64_t at = k * STRIDE + v;
                const V floored = at_least<T>(w[v] + T(1e-9), T(1e-9)), inverse = rsqrt<T>(w[v] + T(1e-8)), zero = {};
                work.scale[at] = rsqrt<T>(floored);
                work.momentum_scale[at] = recipe.vectors ? rsqrt<T>(w[v] + T(recipe.vector_eps)) : zero;
                for (Group group : {ROWS, COLUMNS}) work.features[row_of[group] * STRIDE + at] = recipe.vectors ? w[v] : zero;
                for (Group group : {RSQRT_ROWS, RSQRT_COLUMNS}) work.features[row_of[group] * STRIDE + at] = recipe.vectors ? inverse : zero;
            }
        }
    }

    // Features of a block are written down, or (SUM) their squares are added up, and nothing else.
    template <int N, bool SUM> void make_features(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        const bool is_vector = !item.shape.factored;
        if (recipe.factors && is_vector) spread_vector<N>(item, work, start, count);
        else if (recipe.factors) spread<N>(item, work, start, count);
        const V *g = work.g, *p = work.p, *m = work.m, *second = work.v, *scale = work.scale;
        const V* momentum_scale = is_vector ? work.momentum_scale : scale;
        V root_[N];
        if (recipe.squares)
            for (int v = 0; v < N; ++v) root_[v] = rsqrt<T>(second[v] + T(recipe.square_eps));
        for (int64_t i = 0; i < recipe.num_groups; ++i) {
            const Group group = Group(recipe.groups[i]);
            V *x = work.features + row_of[group] * STRIDE, *sums = work.sums + row_of[group];
            const int64_t n = width(group);
            const auto each = [&](const auto& f) {
                for (int64_t k = 0; k < n; ++k) {
                    if constexpr (SUM) {
                        V sum = f(k * STRIDE, 0) * f(k * STRIDE, 0);
                        for (int v = 1; v < N; ++v) sum += f(k * STRIDE + v, v) * f(k * STRIDE + v, v);
                        sums[k] += sum;
                    } else {
                        for (int v = 0; v < N; ++v) x[k * STRIDE + v] = f(k * STRIDE + v, v);
                    }
                }
            };
            const auto raw = [&](const V* own) { if (SUM || own != x) each([&](int64_t k, int) { return own[k]; }); };
            switch (group) {
                case GRAD: raw(g); break;
                case CLIPPED_GRAD: each([&](int64_t, int v) { return clipped<T>(g[v], T(0.1)); }); break;
                case THETA: raw(p); break;
                case MOMENTA: raw(m); break;
                case SQUARES: raw(second); break;
                case SCALED_MOMENTA: each([&](int64_t k, int v) { return m[k] * root_[v]; }); break;
                case ROOT: each([&](int64_t, int v) { return root_[v]; }); break;
                case FACTORED_GRAD: each([&](int64_t k, int v) { return g[v] * scale[k]; }); break;
                case SCALED_GRAD: each([&](int64_t, int v) { return g[v] * root_[v]; }); break;
                case FACTORED_MOMENTA: each([&](int64_t k, int) { return m[k] * momentum_scale[k]; }); break;
                default: if (SUM && rows_of_features(item.shape) > num_own) raw(x);  // rows and columns: they are there
            }
        }
    }

    template <int N> void fetch_gradient(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        fetch<N>(work.g, grad(item) + start, count);
        const T* theta = static_cast<const T*>(call.theta) + item.task * call.theta_row + item.shape.coordinate + start;
        fetch<N>(work.p, theta, count);
        if (item.shape.limit < INFINITY)
            for (int v = 0; v < N; ++v) work.g[v] = clipped<T>(work.g[v], limit(item.shape));
    }

    // ---------------------------------------------------------------------------------------------- passes 1 to 3

    void first(const Item<T>& item, Work<T>& work, int64_t matrix, int64_t chunk, int64_t begin, int64_t end) const {
        std::fill(work.sums, work.sums + num_features, V{});
        work.run_begin = NOWHERE, work.asks = false;
        for_blocks(begin, end, [&](auto n, int64_t start, int64_t count) {
            constexpr int N = decltype(n)::value;
            fetch_gradient<N>(item, work, start, count);
            update_moments<N>(item, work, start, count);
            if (!item.shape.served) return;
            if (count == N * L) return make_features<N, true>(item, work, start, count);
            make_features<N, false>(item, work, start, count);  // what lies behind the end counts for nothing
            V *const sums = work.sums, *x = work.features;
            for (int64_t f = 0; f < rows_of_features(item.shape); ++f, x += STRIDE) {
                std::fill(reinterpret_cast<T*>(x) + count, reinterpret_cast<T*>(x) + N * L, T(0));
                for (int v = 0; v < N; ++v) sums[f] += x[v] * x[v];
            }
        });
        if (item.shape.served)
            for (int64_t f = 0; f < num_features; ++f)
                item.scratch.sums[(matrix * item.chunks() + chunk) * num_features + f] = total<T>(work.sums[f]);
    }

    template <int N> void update_moments(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        const V* g = work.g;
        const auto update = [&](const Moment& moment, int kind, int64_t k, int64_t at, V* own, const auto& news) {
            const T beta = decay(kind, item.task, k), rest = 1 - beta;
            fetch<N>(own, before(moment, k, item.task, at + start), count);
            for (int v = 0; v < N; ++v) own[v] = loaded(beta * own[v]) + rest * loaded(news(v));  // rounded as torch rounds
            put<N>(after(moment, k, item.task, at + start), own, count);
        };
        const int64_t at = item.shape.coordinate;
        for (int64_t k = 0; k < recipe.momenta; ++k)
            update(call.momenta, 0, k, at, work.m + k * STRIDE, [&](int v) { return g[v]; });
        if (recipe.squares) update(call.squares, 1, 0, at, work.v, [&](int v) { return g[v] * g[v]; });
        V w[N];
        if (recipe.factors && !item.shape.factored)
            for (int64_t k = 0; k < recipe.factors; ++k)
                update(call.major, 2, k, item.shape.major, w, [&](int v) { return g[v] * g[v] + T(1e-30); });
    }

    void second(const Item<T>& item, Work<T>& work, int64_t matrix, int64_t chunk, int64_t begin, int64_t end) const {
        const int64_t at = item.shape.coordinate;
        T* out = static_cast<T*>(call.out) + item.task * call.out_row + item.shape.out;
        const T scale = output_scale(item);
        const bool separable = is_separable(item.shape);
        V norm = {};
        fold(item, matrix, work);
        work.run_begin = NOWHERE, work.asks = true;
        for_blocks(begin, end, [&](auto n, int64_t start, int64_t count) {
            constexpr int N = decltype(n)::value;
            fetch_gradient<N>(item, work, start, count);
            for (int64_t k = 0; k < recipe.momenta; ++k)
                fetch<N>(work.m + k * STRIDE, after(call.momenta, k, item.task, at + start), count);
            if (recipe.squares) fetch<N>(work.v, after(call.squares, 0, item.task, at + start), count);
            make_features<N, false>(item, work, start, count);
            const Start begins = start_of(item, work, start, count);
            if (is_small(item.shape)) normalise<N>(work);
            V* o = network<N>(work, item.task, is_small(item.shape), separable ? &begins : nullptr);
            if (recipe.exp_mult != 0)
                for (int v = 0; v < N; ++v) o[v] *= exponential<T>(T(recipe.exp_mult) * o[STRIDE + v]);
            for (int v = 0; v < N; ++v) o[v] *= scale;
            if (count < N * L) std::fill(reinterpret_cast<T*>(o) + count, reinterpret_cast<T*>(o) + N * L, T(0));
            for (int v = 0; v < N; ++v) norm += o[v] * o[v];
            put<N>(out + start, o, count);
        });
        if (recipe.output_eps >= 0) item.scratch.norms[matrix * item.chunks() + chunk] = total<T>(norm);
    }
    T given_scale(const Item<T>& item) const {
        const T* scale = static_cast<const T*>(call.scale);
        return scale ? scale[item.task * call.scale_row + item.shape.number * call.scale_column] : T(1);
    }
    T output_scale(const Item<T>& item) const {
        T scale = recipe.output_eps < 0 ? given_scale(item) : T(1);  // else pass 3 multiplies by it
        if (recipe.relative) {
            const double sum = summed(item.scratch.sums.data() + row_of[THETA], item.chunks(), num_features);
            scale *= std::sqrt(T(sum / double(item.size())) + T(1e-9));
        }
        return scale;
    }

    void third(const Item<T>& item, int64_t matrix, int64_t, int64_t begin, int64_t end) const {
        T* out = static_cast<T*>(call.out) + item.task * call.out_row + item.shape.out;
        const double sum = summed(item.scratch.norms.data() + matrix * item.chunks(), item.chunks(), 1);
        const T scale = given_scale(item) / std::sqrt(T(recipe.output_eps) + T(sum / double(item.size())));
        for (int64_t i = begin; i < end; ++i) out[i] *= scale;
    }
};

template <class T> int run(const Recipe* recipe, const Geometry* shapes, const Call* call) noexcept {
    try {
        Step<T>(*recipe, shapes, *call).run();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" int l2o_coordinate_mlp_float32(const Recipe* recipe, const Geometry* shapes, const Call* call) { return run<float>(recipe, shapes, call); }
extern "C" int l2o_coordinate_mlp_float64(const Recipe* recipe, const Geometry* shapes, const Call* call) { return run<double>(recipe, shapes, call); }
