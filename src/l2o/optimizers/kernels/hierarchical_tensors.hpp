// The hierarchical rule's network of every tensor: from the statistics of its gradients, its shape, the time and the loss
// to the size of its step and to what it tells its coordinates.
//
// Legend: B tasks, K tensors, M momenta, T hidden units, H hidden units of the coordinates' network, W numbers that are
// told. The features of a tensor are 2M + 1 of its statistics, its size, 4 of its shape, 4 of the time, 3 of the loss.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using std::int64_t;
constexpr int64_t FROM_TIME = 4, FROM_LOSS = 3, FROM_SHAPE = 4, LOSSES = 4;

struct Sizes {
    int64_t B, P, K, M, H, T, W, many;
    int64_t plane, new_plane;  // how many numbers a momentum lies from the next one, before the step and after it
    int64_t workspace() const { return features() + 2 * T + 1 + W; }  // of a thread, for the networks of tensors
    int64_t features() const { return 2 * M + 2 + FROM_SHAPE + FROM_TIME + FROM_LOSS; }
    int64_t own(int64_t b) const { return many ? b : 0; }  // whose networks serve a task
};

struct Settings {  // the order of the numbers that Python passes
    double eps, step_mult, warmup, cosine, adam, reads_loss, gain, largest_exponent, smoothed, fast, slow, smallest, no_horizon;
};

template <class T> struct Tensors {  // the order of the pointers that Python passes
    const T *statistics, *step;      // (2M + 1, B, K), (B, K)  before the step
    const T *losses, *loss;          // (B, 4), (B,)  before the step; nan where nobody knows the loss
    const T *time, *horizon;         // (B,), (B,)
    const T* shapes;                 // (4, K)
    T *new_statistics, *new_step, *new_losses;
};

template <class T> struct Phi {       // the order of the pointers that Python passes, each for all tasks or one for each
    const T *linear_w, *linear_b;     // (F,), (1,)
    const T *w0, *b0, *w1, *b1, *w2, *b2;  // (T, F), (T,), (T, T), (T,), (1 + W, T), (1 + W,)
    const T *own_w0, *own_b0;         // (H, M + 2 + W), (H,)  of the coordinates' network,
    const T *own_w1, *own_b1, *own_w2, *own_b2;  // (H, H), (H,), (H,), (1,)
};

template <class T> T within(T x, double low, double high) { return x < T(low) ? T(low) : x > T(high) ? T(high) : x; }
template <class T> T mixed(T old, T now, double decay) { return old - (old - now) * T(1 - decay); }

// Takes up a task's loss, writes its memory, and gives the three features of `loss_trend`.
template <class T> void of_loss(const Settings& set, const T* before, T loss, T* after, T* features) {
    T number = before[0], first = before[1], fast = before[2], slow = before[3];
    if (set.reads_loss != 0 && std::isfinite(loss)) {
        loss = std::max(loss, T(set.smallest));
        first = number == 0 ? loss : first;
        number += 1, fast = mixed(fast, loss, set.fast), slow = mixed(slow, loss, set.slow);
    }
    after[0] = number, after[1] = first, after[2] = fast, after[3] = slow;
    features[0] = features[1] = features[2] = 0;
    if (set.reads_loss == 0 || !(number > 0)) return;
    const auto log_of = [&](T x) { return std::log(std::max(x, T(set.smallest))); };
    const T now = log_of(fast / (1 - std::pow(T(set.fast), number)));
    features[0] = 1;
    features[1] = within(T(now - log_of(first)), -9, 3) / 3;
    features[2] = within(T(now - log_of(slow / (1 - std::pow(T(set.slow), number)))), -1, 1);
}

// The four features of the time; gives how large a step is now, from 0 to 1.
template <class T> T of_time(const Settings& set, T time, T horizon, T* features) {
    horizon = std::isfinite(horizon) ? horizon : T(set.no_horizon);
    const T done = std::min(time / horizon, T(1));
    features[0] = done, features[1] = done * done;
    features[2] = std::log10(horizon) / 2 - 1, features[3] = std::log10(time + 1) / 2 - T(0.5);
    const T rise = std::min((time + 1) / std::max(T(set.warmup) * horizon, T(1)), T(1));
    const T left = std::max(1 - time / horizon, T(0));
    return rise * (set.cosine != 0 ? T(0.5) * (1 - std::cos(T(3.14159265358979323846) * left)) : left);
}

// y = W x + b
template <class T> void layer(const T* w, const T* b, const T* x, int64_t inputs, int64_t outputs, bool relu, T* y) {
    for (int64_t o = 0; o < outputs; o++, w += inputs) {
        T sum = 0;
        for (int64_t i = 0; i < inputs; i++) sum += w[i] * x[i];
        sum += b[o];
        y[o] = relu ? std::max(sum, T(0)) : sum;
    }
}

// 1 / (1 - decay^t) of every momentum and of the square, (M + 1, B, K), and the tensors' number of steps.
template <class T> void corrections(const Sizes& s, const T* decays, const Tensors<T>& in, T* correct) {
    for (int64_t place = 0; place < s.B * s.K; place++) {
        const T step = in.new_step[place] = in.step[place] + 1;
        for (int64_t i = 0; i <= s.M; i++) correct[i * s.B * s.K + place] = 1 / (1 - std::pow(decays[i], step));
    }
}

template <class T> struct Found {  // for each tensor
    std::vector<T> bias, scale, theta_scale;  // (B, K, H) of the coordinates' first layer, (B, K) the root mean square of
                                              // its step, and (B, K) what multiplies its parameters
    explicit Found(const Sizes& s) : bias(s.B * s.K * s.H), scale(s.B * s.K), theta_scale(s.B * s.K) {}
};

// From means (B, K, 2M + 2) of a step, for task b: the new statistics, and what is found.
template <class T>
void of_tensors(const Sizes& s, const Settings& set, const Tensors<T>& in, const Phi<T>& phi, const T* means, int64_t b,
                std::vector<T>& work, Found<T>& to) {
    const int64_t M = s.M, F = s.features(), S = 2 * M + 1, columns = M + 2 + s.W, n = s.own(b);
    T *const x = work.data(), *const h = x + F, *const next = h + s.T, *const out = next + s.T;
    T* const time = x + S + 1 + FROM_SHAPE;
    const T now = of_time(set, in.time[b], in.horizon[b], time);
    of_loss(set, in.losses + b * LOSSES, in.loss[b], in.new_losses + b * LOSSES, time + FROM_TIME);
    for (int64_t place = b * s.K; place < (b + 1) * s.K; place++) {
        const T* const found = means + place * (S + 1);
        const T started = 1 - std::pow(T(set.smoothed), in.new_step[place]);
        T last = 0;
        for (int64_t i = 0; i < S; i++) {
            const int64_t at = i * s.B * s.K + place;
            const T kept = in.new_statistics[at] = mixed(in.statistics[at], found[i], set.smoothed);
            x[i] = kept / started;
        }
        for (int64_t i = 0; i <= M; i++) {  // the cosines first: they read the squares
            const T square = x[i];
            if (i) x[M + i] /= std::sqrt(square * last + T(1e-20));
            x[i] = within(T(std::log(square + T(1e-8))), -9, 3) / 4 + T(0.5);
            last = square;
        }
        x[S] = std::log(found[S] + T(1e-12)) / 8 + T(0.5);
        for (int64_t i = 0; i < FROM_SHAPE; i++) x[S + 1 + i] = in.shapes[i * s.K + place - b * s.K];
        layer(phi.w0 + n * s.T * F, phi.b0 + n * s.T, x, F, s.T, true, h);
        layer(phi.w1 + n * s.T * s.T, phi.b1 + n * s.T, h, s.T, s.T, true, next);
        layer(phi.w2 + n * (1 + s.W) * s.T, phi.b2 + n * (1 + s.W), next, s.T, 1 + s.W, false, out);
        T exponent;
        layer(phi.linear_w + n * F, phi.linear_b + n, x, F, 1, false, &exponent);
        exponent = T(set.gain) * (exponent + out[0]);
        exponent = T(set.largest_exponent) * std::tanh(exponent / T(set.largest_exponent));
        to.scale[place] = T(set.step_mult) * now * (set.cosine != 0 ? T(1) : std::exp(exponent)) * std::sqrt(found[1]);
        to.theta_scale[place] = 1 / std::sqrt(found[S] + T(1e-16));
        for (int64_t o = 0; o < s.H; o++) {
            const T* w = phi.own_w0 + (n * s.H + o) * columns + M + 2;
            T sum = 0;
            for (int64_t i = 0; i < s.W; i++) sum += w[i] * out[1 + i];
            to.bias[place * s.H + o] = sum + phi.own_b0[n * s.H + o];
        }
    }
}

}  // namespace
