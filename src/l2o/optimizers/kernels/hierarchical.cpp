// The hierarchical rule's passes over the coordinates: what is remembered and its statistics, then the direction.
//
// Legend: B tasks, P coordinates, K tensors, M momenta, H hidden units. All arrays are contiguous. The bits of a result do
// not depend on the number of threads: sums are made over runs of a fixed length, and added in their order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
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
    const T *decays;               // (M + 1,)  of the momenta, then of the square
    const T *correct;              // (M + 1, B, K)  1 / (1 - decay^t) of the same
};

template <class T> void take(T (&to)[BLOCK], const T* from, int n) {
    if (n < BLOCK) std::memset(to, 0, sizeof(to));
    std::memcpy(to, from, n * sizeof(T));
}

// sums (B, K, 2M + 2): of grad^2, n_i^2 (M), n_i n_{i-1} (M, with grad before the first) and theta^2, n and grad normalised.
template <class T>
void remember(const Given<T>& in, const Job& job, int64_t tasks, int64_t P, int64_t K, int M, T eps, T* momenta, T* square, T* sums) {
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
            const int64_t plane = i * tasks * P + row + at;
            const T decay = in.decays[i], c = in.correct[i * tasks * K + place];
            take(m, in.momenta + plane, n);
            for (int j = 0; j < BLOCK; j++) m[j] = decay * m[j] + (1 - decay) * g[j];
            std::memcpy(momenta + plane, m, n * sizeof(T));
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

template <class T> struct Network {  // for one task: (H, M + 2), (H, H), (H,), (H,), (); the first bias is its tensor's own
    const T *w0, *w1, *b1, *w2, *b2;
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
            take(x[1 + i], in.momenta + i * tasks * P + row + at, n);
            for (int j = 0; j < BLOCK; j++) x[1 + i][j] *= c * inverse[j];
        }
        for (int j = 0; j < BLOCK; j++) u[j] = x[1][j] + net.b2[0];
        for (int j = 0; j < BLOCK; j++) x[0][j] *= inverse[j], x[F - 1][j] *= theta_scale;
        for (int f = 0; f < F; f++)
            for (int j = 0; j < BLOCK; j++) x[f][j] = std::min<T>(10, std::max<T>(-10, x[f][j]));
        for (int o = 0; o < H; o++) {
            for (int j = 0; j < BLOCK; j++) y[j] = bias[o];
            for (int f = 0; f < F; f++) {
                const T w = net.w0[o * F + f];
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

template <class T> int remember_all(int64_t tasks, int64_t P, int64_t K, int64_t M, int64_t threads, double eps, void** given, T* momenta, T* square, T* means) {
    try {
        const Given<T> in = *reinterpret_cast<Given<T>*>(given);
        const std::vector<Job> jobs = jobs_of(tasks, K, in.ends);
        std::vector<T> sums(jobs.size() * MAX_SUMS);
        std::vector<Nothing> own(std::max<int64_t>(1, threads));
        parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
            remember<T>(in, jobs[i], tasks, P, K, int(M), T(eps), momenta, square, &sums[i * MAX_SUMS]);
        });
        const int64_t S = 2 * M + 2;
        std::fill(means, means + tasks * K * S, T(0));
        for (size_t i = 0; i < jobs.size(); i++) {
            const T count = T(in.ends[jobs[i].tensor + 1] - in.ends[jobs[i].tensor]);
            T* to = means + (jobs[i].task * K + jobs[i].tensor) * S;
            for (int64_t s = 0; s < S; s++) to[s] += sums[i * MAX_SUMS + s] / count;
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// scale (B, K): the root mean square that a tensor's update shall have. phi is w0, bias (B, K, H), w1, b1, w2, b2; each
// of these but the bias is one for all tasks where `many` is 0.
template <class T>
int direct_all(int64_t tasks, int64_t P, int64_t K, int64_t M, int64_t H, int64_t many, int64_t threads, double eps, void** given, void** phi,
               const T* theta_scale, const T* scale, T* out) {
    try {
        const Given<T> in = *reinterpret_cast<Given<T>*>(given);
        T* const* p = reinterpret_cast<T**>(phi);
        const std::vector<Job> jobs = jobs_of(tasks, K, in.ends);
        std::vector<T> squares(jobs.size()), total(tasks * K);
        std::vector<Nothing> own(std::max<int64_t>(1, threads));
        auto run = H == 8 ? direct<T, 8> : H == 16 ? direct<T, 16> : direct<T, 0>;
        parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
            const Job& job = jobs[i];
            const int64_t b = many ? job.task : 0, place = job.task * K + job.tensor;
            const Network<T> net{p[0] + b * H * (M + 2), p[2] + b * H * H, p[3] + b * H, p[4] + b * H, p[5] + b};
            squares[i] = run(in, job, tasks, P, K, int(M), int(H), T(eps), net, p[1] + place * H, theta_scale[place], out);
        });
        for (size_t i = 0; i < jobs.size(); i++) total[jobs[i].task * K + jobs[i].tensor] += squares[i];
        parallel(int64_t(jobs.size()), threads, own, [&](int64_t i, Nothing&) {
            const Job& job = jobs[i];
            const int64_t place = job.task * K + job.tensor;
            const T mean = total[place] / T(in.ends[job.tensor + 1] - in.ends[job.tensor]);
            const T factor = -scale[place] / std::sqrt(mean + T(1e-16));
            T* to = out + job.task * P;
            for (int64_t j = job.start; j < job.stop; j++) to[j] *= factor;
        });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                        \
    extern "C" int l2o_remember_##NAME(int64_t B, int64_t P, int64_t K, int64_t M, int64_t threads, double eps, void** given,  \
                                       T* momenta, T* square, T* means) {                                                      \
        return remember_all<T>(B, P, K, M, threads, eps, given, momenta, square, means);                                       \
    }                                                                                                                          \
    extern "C" int l2o_direct_##NAME(int64_t B, int64_t P, int64_t K, int64_t M, int64_t H, int64_t many, int64_t threads,     \
                                     double eps, void** given, void** phi, const T* theta_scale, const T* scale, T* out) {     \
        return direct_all<T>(B, P, K, M, H, many, threads, eps, given, phi, theta_scale, scale, out);                          \
    }
EXPORT(float32, float)
EXPORT(float64, double)
