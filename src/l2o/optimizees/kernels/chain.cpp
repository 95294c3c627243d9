// The loss and the gradient of a chain of linear layers and elementwise activations, for every task by itself.
//
// Legend: B tasks, N examples of a minibatch, a layer with I inputs and O outputs.
//
// Rows of activations are padded to whole vectors. All five products of a layer are one kind of product, C = S V with
// single numbers of S and vectors of V's rows:
//
//   forward    Z (N, O)  = A (N, I)   W^T (I, O)       W is transposed first
//   backward   dW (O, I) = dZ^T (O, N) A (N, I)
//              dA (N, I) = dZ (N, O)  W (O, I)
//
// A task is worked on by one thread, in memory of that thread which is used for the next task again: in small problems
// it stays in the cache. So the bits of a result do not depend on the number of threads.
#include <new>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

enum Activation { NONE, RELU, SIGMOID, TANH, GELU, SILU, LEAKY_RELU, ELU };  // in the numbering of `chain.Activation`
enum Loss { CROSS_ENTROPY, SIGMOID_SQUARES };                               // in the numbering of `chain.Loss`

// The two structures are mirrored by `chain_cpp`.
struct Layer {
    int64_t inputs, outputs, weight, bias;  // where in theta the parameters begin; a bias at -1 is none
    int64_t activation;                     // after the layer
    double slope, scale;                    // of the activation, where it has any
};

struct Call {
    int64_t tasks, examples, num_layers, loss, threads;
    int64_t theta_row, grad_row, x_task, x_row, label_task;  // distances
    double decay;                           // decay / 2 times the sum of the weights' squares is added to the loss
    const Layer* layers;
    const void *theta, *x;
    const int64_t* labels;                  // (B, N), or null
    void *losses, *grad;
};

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 24;               // of 32, for sums
constexpr int ROWS[] = {0, 8, 8, 8, 6};     // of a tile with so many vectors in a row
#else
constexpr int REGISTERS = 12;               // of 16
constexpr int ROWS[] = {0, 8, 6, 4, 3};
#endif
static_assert(ROWS[4] * 4 <= REGISTERS, "a tile's sums fit into the registers");

template <class T> int64_t padded(int64_t size) { return (size + LANES<T> - 1) / LANES<T> * LANES<T>; }

// ---------------------------------------------------------------------------------------------------- products

template <class T> struct Product {         // out (rows, columns) = start + S (rows, K) V (K, columns)
    int64_t rows, columns, K;
    const T* S;
    int64_t s_row, s_k;
    const T* V;                             // its rows can be read up to the next whole vector
    int64_t v_row;
    const T* start;                         // (columns,), in whole vectors; or null
    T* out;                                 // written up to the last column
    int64_t out_row;
};

template <class T, int R, int C> INLINE void tile(const Product<T>& p, int64_t row, int64_t column) {
    Vec<T> sum[R][C];
    for (int c = 0; c < C; ++c) {
        const Vec<T> first = p.start ? load(p.start + column + c * LANES<T>) : Vec<T>{};
        for (int r = 0; r < R; ++r) sum[r][c] = first;
    }
    const T *s = p.S + row * p.s_row, *v = p.V + column;
    for (int64_t k = 0; k < p.K; ++k, s += p.s_k, v += p.v_row) {
        Vec<T> of_row[C];
        for (int c = 0; c < C; ++c) of_row[c] = loaded(load(v + c * LANES<T>));
        for (int r = 0; r < R; ++r) {
            const Vec<T> one = loaded(splat(s[r * p.s_row]));
            for (int c = 0; c < C; ++c) sum[r][c] += one * of_row[c];
        }
    }
    T* out = p.out + row * p.out_row + column;
    const int64_t count = p.columns - column;
    if (count >= C * LANES<T>) {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) store(out + r * p.out_row + c * LANES<T>, sum[r][c]);
    } else {
        for (int r = 0; r < R; ++r) std::memcpy(out + r * p.out_row, sum[r], count * sizeof(T));
    }
}

template <class T, int R, int C> void last_rows(const Product<T>& p, int64_t row, int64_t column) {
    if constexpr (R > 0) {
        if (p.rows - row == R) tile<T, R, C>(p, row, column);
        else last_rows<T, R - 1, C>(p, row, column);
    }
}

template <class T, int C> void columns_of(const Product<T>& p, int64_t column) {
    int64_t row = 0;
    for (; row + ROWS[C] <= p.rows; row += ROWS[C]) tile<T, ROWS[C], C>(p, row, column);
    last_rows<T, ROWS[C] - 1, C>(p, row, column);
}

template <class T> void multiply(const Product<T>& p) {
    for (int64_t column = 0; column < p.columns; column += 4 * LANES<T>) {
        const int64_t vectors = (p.columns - column + LANES<T> - 1) / LANES<T>;
        if (vectors >= 4) columns_of<T, 4>(p, column);
        else if (vectors == 3) columns_of<T, 3>(p, column);
        else if (vectors == 2) columns_of<T, 2>(p, column);
        else columns_of<T, 1>(p, column);
    }
}

// -------------------------------------------------------------------------------------------------- rearrangement

template <class T> struct Four { typedef T V __attribute__((vector_size(4 * sizeof(T)), may_alias, aligned(sizeof(T)))); };

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, Indices{__VA_ARGS__})
#endif

// to (columns, to_row) = from (rows, columns)^T
template <class T> void transpose(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
    using V = typename Four<T>::V;
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
    typedef Index Indices __attribute__((vector_size(4 * sizeof(T)), unused));
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const T* at = from + r * from_row;
        int64_t c = 0;
        for (; c + 4 <= columns; c += 4) {
            V v[4];
            for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const V*>(at + i * from_row + c);
            const V a = SHUFFLED(v[0], v[1], 0, 4, 1, 5), b = SHUFFLED(v[2], v[3], 0, 4, 1, 5);
            const V d = SHUFFLED(v[0], v[1], 2, 6, 3, 7), e = SHUFFLED(v[2], v[3], 2, 6, 3, 7);
            T* out = to + c * to_row + r;
            *reinterpret_cast<V*>(out) = SHUFFLED(a, b, 0, 1, 4, 5);
            *reinterpret_cast<V*>(out + to_row) = SHUFFLED(a, b, 2, 3, 6, 7);
            *reinterpret_cast<V*>(out + 2 * to_row) = SHUFFLED(d, e, 0, 1, 4, 5);
            *reinterpret_cast<V*>(out + 3 * to_row) = SHUFFLED(d, e, 2, 3, 6, 7);
        }
        for (; c < columns; ++c)
            for (int i = 0; i < 4; ++i) to[c * to_row + r + i] = at[i * from_row + c];
    }
    for (; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) to[c * to_row + r] = from[r * from_row + c];
}

// to (rows, to_row) = from (rows, columns), with zeros behind each row
template <class T> void spread(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
    for (int64_t r = 0; r < rows; ++r, from += from_row, to += to_row) {
        std::memcpy(to, from, columns * sizeof(T));
        std::memset(to + columns, 0, (to_row - columns) * sizeof(T));
    }
}

// --------------------------------------------------------------------------------------------------- activations

template <class T> INLINE Vec<T> chosen(decltype(Vec<T>{} < Vec<T>{}) which, Vec<T> a, Vec<T> b) { return which ? a : b; }

template <class T> INLINE Vec<T> exponential_minus_one(Vec<T> x) {  // as `exponential`, exact for small x, too
    using R = Real<T>;
    using V = Vec<T>;
    V y = x * T(LOG2_E);
    y = chosen<T>(y > R::HIGHEST, V{} + R::HIGHEST, y);
    y = chosen<T>(y < R::LOWEST, V{} + R::LOWEST, y);
    const V shifted = y + R::MAGIC, r = y - (shifted - R::MAGIC);
    constexpr int last = sizeof(R::Q) / sizeof(T) - 1;
    V q = V{} + R::Q[last];
    for (int k = last - 1; k >= 0; --k) q = q * r + R::Q[k];
    const V scale = (V)((typename R::I)shifted << R::MANTISSA);
    return scale * (q * r) + (scale - 1);
}

template <class T> INLINE Vec<T> sigmoid(Vec<T> x) { return T(1) / (T(1) + exponential<T>(-x)); }

template <class T> INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
    const Vec<T> e = exponential_minus_one<T>(T(2) * x);
    return chosen<T>(x > T(30), Vec<T>{} + T(1), e / (e + T(2)));
}

// erf for float as torch's vectorized code has it (Abramowitz & Stegun 7.1.26), for double the library's.
template <class T> INLINE Vec<T> error_function(Vec<T> x) {
    if constexpr (sizeof(T) == 8) {
        for (int64_t lane = 0; lane < LANES<T>; ++lane) x[lane] = std::erf(x[lane]);
        return x;
    } else {
        const Vec<T> size = chosen<T>(x < T(0), -x, x), t = T(1) / (T(0.3275911) * size + T(1));
        Vec<T> r = T(1.061405429) * t + T(-1.453152027);
        r = r * t + T(1.421413741);
        r = r * t + T(-0.284496736);
        r = r * t + T(0.254829592);
        const Vec<T> value = T(1) - r * t * exponential<T>(-size * size);
        return chosen<T>(x < T(0), -value, value);
    }
}

// z -> f(z), and f'(z) beside it. Numbers that are not finite come out as they do in torch.
template <class T, int A> INLINE Vec<T> activated(Vec<T> z, Vec<T>& slope, T a, T b) {
    const Vec<T> zero = {}, one = zero + T(1);
    if constexpr (A == RELU) {
        slope = chosen<T>(z <= T(0), zero, one);
        return chosen<T>(z <= T(0), zero, z);
    } else if constexpr (A == LEAKY_RELU) {
        slope = chosen<T>(z > T(0), one, zero + a);
        return chosen<T>(z > T(0), z, a * z);
    } else if constexpr (A == SIGMOID) {
        const Vec<T> s = sigmoid<T>(z);
        slope = s * (T(1) - s);
        return s;
    } else if constexpr (A == TANH) {
        const Vec<T> y = hyperbolic_tangent<T>(z);
        slope = T(1) - y * y;
        return y;
    } else if constexpr (A == SILU) {
        const Vec<T> s = sigmoid<T>(z);
        slope = s * (T(1) + z * (T(1) - s));
        return z * s;
    } else if constexpr (A == GELU) {
        const Vec<T> below = T(0.5) * (T(1) + error_function<T>(z * T(0.70710678118654752440)));
        slope = below + z * exponential<T>(T(-0.5) * z * z) * T(0.39894228040143267794);
        return z * below;
    } else {
        const Vec<T> e = exponential_minus_one<T>(z);
        slope = chosen<T>(z > T(0), zero + b, b * a * (e + T(1)));
        return b * chosen<T>(z > T(0), z, a * e);
    }
}

template <class T, int A> void activate(T* z, T* slope, int64_t count, const Layer& layer) {
    for (int64_t i = 0; i < count; i += LANES<T>) {
        Vec<T> own;
        store(z + i, activated<T, A>(load(z + i), own, T(layer.slope), T(layer.scale)));
        store(slope + i, own);
    }
}

template <class T> void activate(T* z, T* slope, int64_t count, const Layer& layer) {
    switch (layer.activation) {
        case RELU: return activate<T, RELU>(z, slope, count, layer);
        case SIGMOID: return activate<T, SIGMOID>(z, slope, count, layer);
        case TANH: return activate<T, TANH>(z, slope, count, layer);
        case GELU: return activate<T, GELU>(z, slope, count, layer);
        case SILU: return activate<T, SILU>(z, slope, count, layer);
        case LEAKY_RELU: return activate<T, LEAKY_RELU>(z, slope, count, layer);
        case ELU: return activate<T, ELU>(z, slope, count, layer);
        default: return;
    }
}

// -------------------------------------------------------------------------------------------------------- losses

// z (N, C) becomes d loss / d z; the loss is returned. `turned` has room for C vectors: as many examples as a vector has
// numbers are turned around and go in lockstep.
template <class T> double cross_entropy(T* z, int64_t examples, int64_t classes, const int64_t* labels, T* turned) {
    constexpr int64_t L = LANES<T>;
    const int64_t row = padded<T>(classes);
    const T share = T(1) / T(examples);
    double loss = 0;
    for (int64_t n = 0; n < examples; n += L, z += L * row, labels += L) {
        const int64_t count = std::min(L, examples - n);
        transpose(z, row, count, classes, turned, L);
        Vec<T> highest = load(turned), sum = {};
        for (int64_t c = 1; c < classes; ++c) highest = chosen<T>(load(turned + c * L) > highest, load(turned + c * L), highest);
        for (int64_t c = 0; c < classes; ++c) {
            const Vec<T> e = exponential<T>(load(turned + c * L) - highest);
            store(turned + c * L, e);
            sum += e;
        }
        for (int64_t i = 0; i < count; ++i) loss += std::log(sum[i]) - (z[i * row + labels[i]] - highest[i]);
        for (int64_t c = 0; c < classes; ++c) store(turned + c * L, load(turned + c * L) * (share / sum));
        transpose(turned, L, classes, count, z, row);
        for (int64_t i = 0; i < count; ++i) z[i * row + labels[i]] -= share;
    }
    return loss / double(examples);
}

// The mean of (x - sigmoid(z))^2 over (N, F), and z becomes its derivative.
template <class T> double sigmoid_squares(T* z, int64_t examples, int64_t size, const T* x, int64_t x_row) {
    const int64_t row = padded<T>(size);
    const T share = T(2) / (T(examples) * T(size));
    double loss = 0;
    for (int64_t n = 0; n < examples; ++n, z += row, x += x_row) {
        Vec<T> sum = {};
        for (int64_t f = 0; f < row; f += LANES<T>) {
            const Vec<T> s = sigmoid<T>(load(z + f));
            Vec<T> error = s - load(x + f);
            for (int64_t lane = size - f; lane < LANES<T>; ++lane) error[lane] = 0;
            sum += error * error;
            store(z + f, share * error * s * (T(1) - s));
        }
        loss += total<T>(sum);
    }
    return loss / (double(examples) * double(size));
}

// ---------------------------------------------------------------------------------------------------------- a task

template <class T> struct Memory {          // of one thread
    Vec<T>* data = nullptr;
    void allocate(int64_t numbers) {
        const int64_t bytes = std::max<int64_t>(1, numbers) * sizeof(T);
        data = static_cast<Vec<T>*>(::operator new(bytes, std::align_val_t(VECTOR_BYTES)));
    }
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory(Memory&& other) noexcept : data(other.data) { other.data = nullptr; }
    ~Memory() { if (data) ::operator delete(data, std::align_val_t(VECTOR_BYTES)); }
};

template <class T> class Chain {
    const Call& call;
    const int64_t N;
    const bool x_as_it_is;                  // its rows are whole vectors
    int64_t matrix = 0, widest = 0, numbers = 0;
    std::vector<int64_t> places;            // where in a thread's memory the outputs of a layer lie, then their slopes

    const Layer& layer(int64_t l) const { return call.layers[l]; }
    int64_t row(int64_t l) const { return padded<T>(layer(l).outputs); }

public:
    explicit Chain(const Call& call) : call(call), N(call.examples), x_as_it_is(call.layers[0].inputs % LANES<T> == 0) {
        const int64_t inputs = padded<T>(layer(0).inputs);
        for (int64_t l = 0; l < call.num_layers; ++l) {
            const int64_t in = l ? row(l - 1) : inputs;
            matrix = std::max(matrix, std::max(layer(l).inputs * row(l), layer(l).outputs * std::max(in, LANES<T>)));
            widest = std::max(widest, row(l));
        }
        numbers = widest + matrix + (x_as_it_is ? 0 : N * inputs) + 2 * N * widest;  // bias, weights, x, two of dZ
        for (int64_t l = 0; l < call.num_layers; ++l) {
            places.push_back(numbers);
            numbers += 2 * N * row(l);
        }
    }

    void run() const {
        const int64_t busy = std::max<int64_t>(1, std::min(call.threads, call.tasks));
        std::vector<Memory<T>> memories(busy);
        for (Memory<T>& memory : memories) memory.allocate(numbers);
        parallel(call.tasks, call.threads, memories, [&](int64_t b, Memory<T>& memory) { of_task(b, reinterpret_cast<T*>(memory.data)); });
    }

private:
    void of_task(int64_t b, T* memory) const {
        T *bias = memory, *weights = bias + widest, *own_x = weights + matrix;
        T *even = own_x + (x_as_it_is ? 0 : N * padded<T>(layer(0).inputs)), *odd = even + N * widest;
        const T* theta = static_cast<const T*>(call.theta) + b * call.theta_row;
        T* grad = static_cast<T*>(call.grad) + b * call.grad_row;
        const T* x = static_cast<const T*>(call.x) + b * call.x_task;
        int64_t x_row = call.x_row;
        if (!x_as_it_is) {
            spread(x, x_row, N, layer(0).inputs, own_x, padded<T>(layer(0).inputs));
            x = own_x, x_row = padded<T>(layer(0).inputs);
        }
        const int64_t last = call.num_layers - 1;
        for (int64_t l = 0; l <= last; ++l) forward(l, theta, l ? memory + places[l - 1] : x, l ? row(l - 1) : x_row, memory + places[l], bias, weights);
        T* d = memory + places[last];
        double loss = call.loss == CROSS_ENTROPY ? cross_entropy(d, N, layer(last).outputs, call.labels + b * call.label_task, weights)
                                                 : sigmoid_squares(d, N, layer(last).outputs, x, x_row);
        for (int64_t l = last; l >= 0; --l) {
            backward(l, d, l ? memory + places[l - 1] : x, l ? row(l - 1) : x_row, memory + places[l] + N * row(l), grad);
            if (call.decay != 0) loss += decay(l, theta, grad);
            if (!l) break;
            const int64_t in = row(l - 1);
            spread(theta + layer(l).weight, layer(l).inputs, layer(l).outputs, layer(l).inputs, weights, in);
            T* next = d == even ? odd : even;
            multiply<T>({N, in, layer(l).outputs, d, row(l), 1, weights, in, nullptr, next, in});
            d = next;
        }
        static_cast<T*>(call.losses)[b] = T(loss);
    }

    void forward(int64_t l, const T* theta, const T* inputs, int64_t inputs_row, T* outputs, T* bias, T* weights) const {
        const Layer& own = layer(l);
        const int64_t out = row(l);
        std::fill(bias, bias + out, T(0));
        if (own.bias >= 0) std::copy_n(theta + own.bias, own.outputs, bias);
        for (int64_t i = 0; i < own.inputs; ++i) std::fill(weights + i * out + own.outputs, weights + (i + 1) * out, T(0));
        transpose(theta + own.weight, own.inputs, own.outputs, own.inputs, weights, out);
        multiply<T>({N, out, own.inputs, inputs, inputs_row, 1, weights, out, bias, outputs, out});
        activate(outputs, outputs + N * out, N * out, own);
    }

    void backward(int64_t l, T* d, const T* inputs, int64_t inputs_row, const T* slopes, T* grad) const {
        const Layer& own = layer(l);
        const int64_t out = row(l);
        if (own.activation != NONE)
            for (int64_t i = 0; i < N * out; i += LANES<T>) store(d + i, load(d + i) * load(slopes + i));
        multiply<T>({own.outputs, own.inputs, N, d, 1, out, inputs, inputs_row, nullptr, grad + own.weight, own.inputs});
        if (own.bias < 0) return;
        for (int64_t c = 0; c < out; c += LANES<T>) {
            Vec<T> sum = {};
            for (int64_t n = 0; n < N; ++n) sum += load(d + n * out + c);
            std::memcpy(grad + own.bias + c, &sum, std::min(LANES<T>, own.outputs - c) * sizeof(T));
        }
    }

    double decay(int64_t l, const T* theta, T* grad) const {  // its share of the loss is returned
        const T* weights = theta + layer(l).weight;
        T* to = grad + layer(l).weight;
        double squares = 0;
        for (int64_t i = 0; i < layer(l).inputs * layer(l).outputs; ++i) {
            squares += double(weights[i]) * double(weights[i]);
            to[i] += T(call.decay) * weights[i];
        }
        return call.decay / 2 * squares;
    }
};

// 0; 1 where memory runs out; 2 where a label is none of the classes, before anything has been done.
template <class T> int run(const Call* call) noexcept {
    try {
        const int64_t classes = call->layers[call->num_layers - 1].outputs;
        for (int64_t b = 0; call->labels && b < call->tasks; ++b)
            for (int64_t n = 0; n < call->examples; ++n)
                if (uint64_t(call->labels[b * call->label_task + n]) >= uint64_t(classes)) return 2;
        Chain<T>(*call).run();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" int l2o_chain_float32(const Call* call) { return run<float>(call); }
extern "C" int l2o_chain_float64(const Call* call) { return run<double>(call); }
