// A step of the hierarchical rule: a pass over the coordinates for what is remembered and its statistics, the network of
// every tensor (hierarchical_tensors.hpp), and a second pass for the direction.
//
// Legend: B tasks, P coordinates, K tensors, M momenta, H hidden units. All arrays are contiguous. The bits of a result do
// not depend on the number of threads: sums are made over runs of a fixed length, and added in their order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#include "hierarchical_tensors.hpp"
#include "threads.hpp"

namespace {

using std::int64_t;
constexpr int BLOCK = 64, MAX_MOMENTA = 8, MAX_HIDDEN = 64, MAX_SUMS = 2 * MAX_MOMENTA + 2;
constexpr int64_t RUN = 4096;  // coordinates of a job

struct Job { int64_t task, tensor, start, stop; };
struct Nothing {};

std::vector<Job> jobs_of(int64_t tasks, int64_t tensors, const int64_t* ends) {
    std::vector<Job> jobs;
    for (int64_t b = 0; b < tasks; b++)
        for (int64_t k = 0; k < tensors; k++)
            for (int64_t start = ends[k]; start < ends[k + 1]; start += RUN)
                jobs.push_back({b, k, start, std::min(start + RUN, ends[k + 1])});
    return jobs;
}

template <class T> struct Given {  // the order of the pointers that Python passes
    const int64_t* ends;           // (K + 1,) where the tensors begin, and P
    const T *grad, *theta;         // (B, P)
    const T *momenta, *square;     // (M, B, P), (B, P)  before the step; the direction reads them after it
    int64_t plane;                 // from one momentum to the next
    const T* decays;               // (M + 1,)  of the momenta, then of the square
    const T* correct;              // (M + 1, B, K)  1 / (1 - decay^t) of the same
};

template <class T> void take(T (&to)[BLOCK], const T* from, int n) {
    if (n < BLOCK) std::memset(to, 0, sizeof(to));
    std::memcpy(to, from, n * sizeof(T));
}

// sums (B, K, 2M + 2): of grad^2, n_i^2 (M), n_i n_{i-1} (M, with grad before the first) and theta^2, n and grad normalised.
template <class T>
void remember(const Given<T>& in, const Job& job, int64_t tasks, int64_t P, int64_t K, int M, T eps, T* momenta, int64_t new_plane, T* square,
              T* sums) {
    alignas(64) T total[MAX_SUMS][BLOCK] = {};
    const int64_t row = job.task * P, place = job.task * K + job.tensor;
    const T beta = in.decays[M], correct = in.correct[M * tasks * K + place];
    for (int64_t at = job.start; at < job.stop; at += BLOCK) {
        const int n = int(std::min<int64_t>(BLOCK, job.stop - at));
        alignas(64) T g[BLOCK], theta[BLOCK], v[BLOCK], inverse[BLOCK], last[BLOCK], m[BLOCK];
        take(g, in.grad + row + at, n), take(theta, in.theta + row + at, n), take(v, in.square + row + at, n);
        for (int j = 0; j < BLOCK; j++) v[j] = beta * v[j] + (1 - beta) * g[j] * g[j];
        std::memcpy(square + row + at, v, n * sizeof(T));
        for (int j = 0; j < BLOCK; j++) inverse[j] = 1 / (std::sqrt(v[j] * correct) + eps);
        for (int j = 0; j < BLOCK; j++) {
            last[j] = g[j] * inverse[j];
            total[0][j] += last[j] * last[j];
            total[2 * M + 1][j] += theta[j] * theta[j];
        }
        for (int i = 0; i < M; i++) {
            const T decay = in.decays[i], c = in.correct[i * tasks * K + place];
            take(m, in.momenta + i * in.plane + row + at, n);
            for (int j = 0; j < BLOCK; j++) m[j] = decay * m[j] + (1 - decay) * g[j];
            std::memcpy(momenta + i * new_plane + row + at, m, n * sizeof(T));
            for (int j = 0; j < BLOCK; j++) {
                const T now = m[j] * c * inverse[j];
                total[1 + i][j] += now * now;
                total[1 + M + i][j] += now * last[j];
                last[j] = now;
            }
        }
    }
    for (int s = 0; s < 2 * M + 2; s++) {
        sums[s] = 0;
        for (int j = 0; j < BLOCK; j++) sums[s] += total[s][j];
    }
}

template <class T> struct Network {  // for one task: (H, columns), (H, H), (H,), (H,), (); the first bias is its tensor's own
    const T *w0, *w1, *b1, *w2, *b2;
    int64_t columns;
};

// out = u, and the sum of u^2 is returned.
template <class T, int FIXED>
T direct(const Given<T>& in, const Job& job, int64_t tasks, int64_t P, int64_t K, int M, int hidden, T eps, const Network<T>& net,
         const T* bias, T theta_scale, T* out) {
    const int H = FIXED ? FIXED : hidden, F = M + 2;
    alignas(64) T total[BLOCK] = {}, x[MAX_MOMENTA + 2][BLOCK], h[FIXED ? FIXED : MAX_HIDDEN][BLOCK], y[BLOCK], u[BLOCK], v[BLOCK], inverse[BLOCK];
    const int64_t row = job.task * P, place = job.task * K + job.tensor;
    const T correct = in.correct[M * tasks * K + place];
    for (int64_t at = job.start; at < job.stop; at += BLOCK) {
        const int n = int(std::min<int64_t>(BLOCK, job.stop - at));
        take(x[0], in.grad + row + at, n), take(v, in.square + row + at, n), take(x[F - 1], in.theta + row + at, n);
        for (int j = 0; j < BLOCK; j++) inverse[j] = 1 / (std::sqrt(v[j] * correct) + eps);
        for (int i = 0; i < M; i++) {
            const T c = in.correct[i * tasks * K + place];
            take(x[1 + i], in.momenta + i * in.plane + row + at, n);
            for (int j = 0; j < BLOCK; j++) x[1 + i][j] *= c * inverse[j];
        }
        for (int j = 0; j < BLOCK; j++) u[j] = x[1][j] + net.b2[0];
        for (int j = 0; j < BLOCK; j++) x[0][j] *= inverse[j], x[F - 1][j] *= theta_scale;
        for (int f = 0; f < F; f++)
            for (int j = 0; j < BLOCK; j++) x[f][j] = std::min<T>(10, std::max<T>(-10, x[f][j]));
        for (int o = 0; o < H; o++) {
            for (int j = 0; j < BLOCK; j++) y[j] = bias[o];
            for (int f = 0; f < F; f++) {
                const T w = net.w0[o * net.columns + f];
                for (int j = 0; j < BLOCK; j++) y[j] += w * x[f][j];
            }
            for (int j = 0; j < BLOCK; j++) h[o][j] = std::max<T>(0, y[j]);
        }
        for (int o = 0; o < H; o++) {
            for (int j = 0; j < BLOCK; j++) y[j] = net.b1[o];
            for (int f = 0; f < H; f++) {
                const T w = net.w1[o * H + f];
                for (int j = 0; j < BLOCK; j++) y[j] += w * h[f][j];
            }
            const T w = net.w2[o];
            for (int j = 0; j < BLOCK; j++) u[j] += w * std::max<T>(0, y[j]);
        }
        for (int j = 0; j < n; j++) total[j] += u[j] * u[j];
        std::memcpy(out + row + at, u, n * sizeof(T));
    }
    T sum = 0;
    for (int j = 0; j < BLOCK; j++) sum += total[j];
    return sum;
}

template <class T>
void remember_all(const Given<T>& in, const Sizes& s, const std::vector<Job>& jobs, int64_t threads, T eps, T* momenta, T* square, T* means) {
    std::vector<T> sums(jobs.size() * MAX_SUMS);
    std::vector<Nothing> own(threads);
    parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
        remember<T>(in, jobs[i], s.B, s.P, s.K, int(s.M), eps, momenta, s.new_plane, square, &sums[i * MAX_SUMS]);
    });
    const int64_t S = 2 * s.M + 2;
    for (size_t i = 0; i < jobs.size(); i++) {
        const T count = T(in.ends[jobs[i].tensor + 1] - in.ends[jobs[i].tensor]);
        T* to = means + (jobs[i].task * s.K + jobs[i].tensor) * S;
        for (int64_t n = 0; n < S; n++) to[n] += sums[i * MAX_SUMS + n] / count;
    }
}

template <class T>
void direct_all(const Given<T>& in, const Sizes& s, const std::vector<Job>& jobs, int64_t threads, T eps, const Phi<T>& phi, bool adam,
                const Found<T>& found, T* out) {
    std::vector<T> squares(jobs.size()), total(s.B * s.K), zeros(s.H + 1);
    std::vector<Nothing> own(threads);
    auto run = s.H == 8 ? direct<T, 8> : s.H == 16 ? direct<T, 16> : direct<T, 0>;
    parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
        const Job& job = jobs[i];
        const int64_t n = s.own(job.task), place = job.task * s.K + job.tensor, columns = s.M + 2 + s.W;
        const T *const w2 = adam ? zeros.data() : phi.own_w2 + n * s.H, *const b2 = adam ? zeros.data() : phi.own_b2 + n;
        const Network<T> net{phi.own_w0 + n * s.H * columns, phi.own_w1 + n * s.H * s.H, phi.own_b1 + n * s.H, w2, b2, columns};
        squares[i] = run(in, job, s.B, s.P, s.K, int(s.M), int(s.H), eps, net, &found.bias[place * s.H], found.theta_scale[place], out);
    });
    for (size_t i = 0; i < jobs.size(); i++) total[jobs[i].task * s.K + jobs[i].tensor] += squares[i];
    parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
        const Job& job = jobs[i];
        const int64_t place = job.task * s.K + job.tensor;
        const T mean = total[place] / T(in.ends[job.tensor + 1] - in.ends[job.tensor]);
        const T factor = -found.scale[place] / std::sqrt(mean + T(1e-16));
        T* to = out + job.task * s.P;
        for (int64_t j = job.start; j < job.stop; j++) to[j] *= factor;
    });
}

// given: `Given` without the corrections, `Tensors`, the new momenta, the new square, and the update g (B, P). phi: `Phi`.
template <class T> int step(const Sizes& s, int64_t threads, const Settings& set, void** given, void** phi) {
    try {
        const T* const* read = reinterpret_cast<const T* const*>(given) + 1;
        const Tensors<T> tensors = *reinterpret_cast<Tensors<T>*>(given + 6);
        T *const *const write = reinterpret_cast<T**>(given + 16), *const momenta = write[0], *const square = write[1];
        const Phi<T> networks = *reinterpret_cast<Phi<T>*>(phi);
        const int64_t* ends = static_cast<const int64_t*>(given[0]);
        const std::vector<Job> jobs = jobs_of(s.B, s.K, ends);
        std::vector<T> correct((s.M + 1) * s.B * s.K), means(s.B * s.K * (2 * s.M + 2));
        std::vector<std::vector<T>> work(threads, std::vector<T>(s.workspace()));  // not made in a thread of the pool, where
                                                                                  // an exception would end the process
        Found<T> found(s);
        corrections(s, read[4], tensors, correct.data());
        const Given<T> before{ends, read[0], read[1], read[2], read[3], s.plane, read[4], correct.data()};
        const Given<T> after{ends, read[0], read[1], momenta, square, s.new_plane, read[4], correct.data()};
        remember_all(before, s, jobs, threads, T(set.eps), momenta, square, means.data());
        parallel(s.B, threads, work, [&](int64_t b, std::vector<T>& own) {
            of_tensors(s, set, tensors, networks, means.data(), b, own, found);
        });
        direct_all(after, s, jobs, threads, T(set.eps), networks, set.adam != 0, found, write[2]);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                         \
    extern "C" int l2o_step_##NAME(const Sizes* sizes, std::int64_t threads, const Settings* settings, void** given, void** phi) { \
        return step<T>(*sizes, std::max<std::int64_t>(1, threads), *settings, given, phi);                                      \
    }
EXPORT(float32, float)
EXPORT(float64, double)
