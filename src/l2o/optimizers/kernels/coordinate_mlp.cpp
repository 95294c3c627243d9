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
// layer's weights; features that are the same for all coordinates of a task, those of the time, into its bias.
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

constexpr int64_t MAX_GROUPS = 16, MAX_LAYERS = 16, MAX_TIMES = 16, MAX_DECAYS = 8;

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
constexpr int64_t CHUNK = 1 << 14;         // coordinates in a unit of passes 1 to 3,
constexpr int64_t LARGE = 1 << 16;         // and in an item that is shared out among threads
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
    std::vector<double> sums, norms;       // of units of passes 1 and 2
};

// What belongs to one thread: rows of a block, and the first layer of one task and matrix.
template <class T> struct Work {
    Aligned<T> memory;
    Vec<T> *g, *p, *m, *v, *scale, *momentum_scale, *features, *even, *odd, *sums;
    std::vector<T> pack, bias;
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
    int64_t row_of[NUM_GROUPS], num_features = 0, used_outputs, widest = 1;
    std::vector<T> packs, first_bias;      // of each task: all layers but the first, and the first one's bias
    int64_t pack_size = 0, pack_tasks = 1;

public:
    Step(const Recipe& recipe, const Geometry* shapes, const Call& call) : recipe(recipe), shapes(shapes), call(call) {
        std::fill(row_of, row_of + NUM_GROUPS, -1);
        for (int64_t i = 0; i < recipe.num_groups; ++i) {
            row_of[recipe.groups[i]] = num_features;
            num_features += width(recipe.groups[i]);
        }
        used_outputs = recipe.exp_mult != 0 ? 2 : 1;
        for (int64_t l = 0; l < recipe.num_layers; ++l) widest = std::max(widest, outputs(l));
        pack_layers();
    }

    void run() {
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
                pack(weights(2 * l, task), n, rows, n, [](int64_t) { return T(1); }, to);
                std::copy_n(weights(2 * l + 1, task), rows, to + n * rows);
                to += rows * (n + 1);
            }
        }
        for (int64_t task = 0; task < call.num_tasks; ++task) {
            T times[MAX_TIMES];
            for (int64_t k = 0; k < recipe.num_times; ++k)
                times[k] = std::tanh(static_cast<const T*>(call.step)[task] / T(recipe.times[k]) - T(1));
            for (int64_t r = 0; r < outputs(0); ++r) {
                T sum = 0;
                for (int64_t k = 0; k < recipe.num_times; ++k)
                    sum += weights(0, task)[r * recipe.sizes[0] + num_features + k] * times[k];
                first_bias[task * outputs(0) + r] = sum + weights(1, task)[r];
            }
        }
    }

    template <class Scale> static void pack(const T* from, int64_t from_row, int64_t rows, int64_t n, const Scale& scale, T* to) {
        for_tiles(rows, n, [&](int64_t r, auto tile, int64_t at) {
            for (int64_t k = 0; k < n; ++k)
                for (int q = 0; q < tile; ++q) to[at + k * tile + q] = from[(r + q) * from_row + k] * scale(k);
        });
    }

    template <int ROWS, int N> static INLINE void layer_tile(const T* pack, const T* bias, const V* in, int64_t n, V* out, bool relu) {
        constexpr int TILE = N < MAX_TILE ? N : MAX_TILE;
        for (int v0 = 0; v0 < N; v0 += TILE) {
            V sum[ROWS][TILE];
            for (int q = 0; q < ROWS; ++q)
                for (int v = 0; v < TILE; ++v) sum[q][v] = V{};
            const V* row = in + v0;
            for (int64_t k = 0; k < n; ++k, row += STRIDE) {
                V x[TILE];
                for (int v = 0; v < TILE; ++v) x[v] = loaded(row[v]);
                for (int q = 0; q < ROWS; ++q) {
                    const V w = V{} + pack[k * ROWS + q];
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
    template <int N> static void layer(const T* pack, const T* bias, const V* in, int64_t n, int64_t rows, V* out, bool relu) {
        for_tiles(rows, n, [&](int64_t r, auto tile, int64_t at) {
            layer_tile<decltype(tile)::value, N>(pack + at, bias + r, in, n, out + r * STRIDE, relu);
        });
    }
    template <int N> V* network(const Work<T>& work, int64_t task) const {
        const int64_t last = recipe.num_layers - 1;
        const T* pack = packs.data() + (pack_tasks > 1 ? task : 0) * pack_size;
        V *in = work.even, *out = work.odd;
        layer<N>(work.pack.data(), work.bias.data(), work.features, num_features, outputs(0), in, last != 0);
        for (int64_t l = 1; l <= last; ++l, std::swap(in, out)) {
            const int64_t n = recipe.sizes[l], rows = outputs(l);
            layer<N>(pack, pack + n * rows, in, n, rows, out, l != last);
            pack += rows * (n + 1);
        }
        return in;
    }

    // Fold the normalisation of one matrix into the first layer.
    void fold(const Item<T>& item, int64_t matrix, Work<T>& work) const {
        T scale[8 * MAX_DECAYS + NUM_GROUPS];
        const double* sums = item.scratch.sums.data() + matrix * item.chunks() * num_features;
        for (int64_t f = 0; f < num_features; ++f)
            scale[f] = T(1) / std::sqrt(T(recipe.norm_eps) + T(summed(sums + f, item.chunks(), num_features) / double(item.size())));
        pack(weights(0, item.task), recipe.sizes[0], outputs(0), num_features, [&](int64_t k) { return scale[k]; }, work.pack.data());
        std::copy_n(first_bias.data() + item.task * outputs(0), outputs(0), work.bias.data());
    }
    static double summed(const double* from, int64_t count, int64_t stride) {
        double sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += from[i * stride];
        return sum;
    }

    // ---------------------------------------------------------------------------------------------------- memory

    void allocate(Work<T>& work) const {
        const int64_t M = recipe.momenta, R = recipe.factors, rows = 2 + M + 1 + 2 * R + num_features + 2 * widest;
        work.memory.allocate(rows * STRIDE + num_features);
        V* at = work.memory.data;
        const auto take = [&](int64_t count) { V* own = at; at += count * STRIDE; return own; };
        work.g = take(1), work.p = take(1), work.m = take(M), work.v = take(1), work.scale = take(R);
        work.momentum_scale = take(R), work.features = take(num_features), work.even = take(widest), work.odd = take(widest);
        work.sums = at;
        work.pack.resize(num_features * outputs(0));
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
            for (int v = 0; v < N; ++v) to[v] = load(from + v * L);
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
                for (int64_t i = 0; i < n; ++i) now[i] = value[i] = beta * old[i] + (1 - beta) * mean[i];
            };
            update(call.major, s.major, s.rows_are_major);
            update(call.minor, s.minor, !s.rows_are_major);
            if (s.served) fill_tables(s, own, m);
        }
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

    // -------------------------------------------------------------------------------------- features of one block

    // Spread rows' and columns' numbers over the coordinates start, ..., start + count - 1. Vectors are written whole:
    // what is too much is overwritten by the next run, or lies behind the block.
    void spread(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        const Geometry& s = item.shape;
        const int64_t run = s.C == 1 ? s.Y : s.C, M = recipe.factors, nr = padded(rows(s)), nc = padded(columns(s));
        const auto& tables = item.scratch.tables;
        T* const features = reinterpret_cast<T*>(work.features);
        T* const scale = reinterpret_cast<T*>(work.scale);
        const auto at = [&](Group group) { return row_of[group] < 0 ? nullptr : features + row_of[group] * STRIDE * L; };
        const bool r = s.rows_are_major;
        T *const value_row = at(r ? ROWS : COLUMNS), *const value_column = at(r ? COLUMNS : ROWS);
        T *const root_row = at(r ? RSQRT_ROWS : RSQRT_COLUMNS), *const root_column = at(r ? RSQRT_COLUMNS : RSQRT_ROWS);
        for (int64_t done = 0; done < count;) {
            const int64_t segment = (start + done) / run, inside = (start + done) % run, length = std::min(run - inside, count - done);
            const int64_t y = s.C == 1 ? 0 : segment % s.Y, line = s.C == 1 ? segment : segment / s.Y;
            const int64_t a = line / (s.X * s.M), m = line % s.M;
            const int64_t row = s.C == 1 ? line : line * s.C + inside, column = ((a * s.M + m) * s.Y + y) * s.C + inside;
            for (int64_t k = 0; k < M; ++k) {
                const T* from_row[3] = {tables[0][0].data() + k * nr + row, tables[0][1].data() + k * nr + row, tables[0][2].data() + k * nr + row};
                const T* from_column[3] = {tables[1][0].data() + k * nc + column, tables[1][1].data() + k * nc + column, tables[1][2].data() + k * nc + column};
                const auto copy = [&](T* to, const T* from) { for (int64_t i = 0; i < length; i += L) store(to + i, load(from + i)); };
                const auto fill = [&](T* to, T value) { for (int64_t i = 0; i < length; i += L) store(to + i, V{} + value); };
                const int64_t to = k * STRIDE * L + done;
                if (s.C == 1) {
                    for (int64_t i = 0; i < length; i += L) store(scale + to + i, load(from_column[0] + i) * *from_row[0]);
                    fill(value_row + to, *from_row[1]);
                    fill(root_row + to, *from_row[2]);
                } else {
                    for (int64_t i = 0; i < length; i += L) store(scale + to + i, load(from_column[0] + i) * load(from_row[0] + i));
                    copy(value_row + to, from_row[1]);
                    copy(root_row + to, from_row[2]);
                }
                copy(value_column + to, from_column[1]);
                copy(root_column + to, from_column[2]);
            }
            done += length;
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

    template <int N> void make_features(const Item<T>& item, Work<T>& work, int64_t start, int64_t count) const {
        const bool is_vector = !item.shape.factored;
        if (recipe.factors && is_vector) spread_vector<N>(item, work, start, count);
        else if (recipe.factors) spread(item, work, start, count);
        const V *g = work.g, *m = work.m, *scale = work.scale, *momentum_scale = is_vector ? work.momentum_scale : scale;
        V root_[N];
        if (recipe.squares)
            for (int v = 0; v < N; ++v) root_[v] = rsqrt<T>(work.v[v] + T(recipe.square_eps));
        for (int64_t i = 0; i < recipe.num_groups; ++i) {
            V* x = work.features + row_of[recipe.groups[i]] * STRIDE;
            const int64_t n = width(recipe.groups[i]);
            const auto each = [&](const auto& f) {
                for (int64_t k = 0; k < n; ++k)
                    for (int v = 0; v < N; ++v) x[k * STRIDE + v] = f(k * STRIDE + v, v);
            };
            switch (recipe.groups[i]) {
                case GRAD: each([&](int64_t, int v) { return g[v]; }); break;
                case CLIPPED_GRAD: each([&](int64_t, int v) { return clipped<T>(g[v], T(0.1)); }); break;
                case THETA: each([&](int64_t, int v) { return work.p[v]; }); break;
                case MOMENTA: each([&](int64_t k, int) { return m[k]; }); break;
                case SQUARES: each([&](int64_t, int v) { return work.v[v]; }); break;
                case SCALED_MOMENTA: each([&](int64_t k, int v) { return m[k] * root_[v]; }); break;
                case ROOT: each([&](int64_t, int v) { return root_[v]; }); break;
                case FACTORED_GRAD: each([&](int64_t k, int v) { return g[v] * scale[k]; }); break;
                case SCALED_GRAD: each([&](int64_t, int v) { return g[v] * root_[v]; }); break;
                case FACTORED_MOMENTA: each([&](int64_t k, int) { return m[k] * momentum_scale[k]; }); break;
                default: break;            // of the factors: they are there
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
        for_blocks(begin, end, [&](auto n, int64_t start, int64_t count) {
            constexpr int N = decltype(n)::value;
            fetch_gradient<N>(item, work, start, count);
            update_moments<N>(item, work, start, count);
            if (!item.shape.served) return;
            make_features<N>(item, work, start, count);
            for (int64_t f = 0; f < num_features; ++f) {
                V* x = work.features + f * STRIDE;
                if (count < N * L) std::fill(reinterpret_cast<T*>(x) + count, reinterpret_cast<T*>(x) + N * L, T(0));
                for (int v = 0; v < N; ++v) work.sums[f] += x[v] * x[v];
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
            for (int v = 0; v < N; ++v) own[v] = beta * own[v] + rest * news(v);
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
        V norm = {};
        fold(item, matrix, work);
        for_blocks(begin, end, [&](auto n, int64_t start, int64_t count) {
            constexpr int N = decltype(n)::value;
            fetch_gradient<N>(item, work, start, count);
            for (int64_t k = 0; k < recipe.momenta; ++k)
                fetch<N>(work.m + k * STRIDE, after(call.momenta, k, item.task, at + start), count);
            if (recipe.squares) fetch<N>(work.v, after(call.squares, 0, item.task, at + start), count);
            make_features<N>(item, work, start, count);
            V* o = network<N>(work, item.task);
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
