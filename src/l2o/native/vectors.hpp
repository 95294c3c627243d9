// Vectors of numbers as wide as the processor has them, for float and double alike.
//
// All arithmetic runs on GCC's and clang's vector extension, which needs no intrinsics, except for the square root.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

using std::int64_t;
constexpr double LOG2_E = 1.44269504088896341;

// 2^r - 1 = r (q_0 + q_1 r + ...) for |r| <= 1/2: a minimax fit for float (relative error 2e-8), the Taylor series for
// double. Adding MAGIC to a number leaves the nearest integer, plus the exponent's bias, in the mantissa's low bits.
template <class T> struct Real;
template <> struct Real<float> {
    typedef float V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef float U __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(float))));
    typedef int32_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr float MAGIC = 12582912.0f + 127, LOWEST = -126, HIGHEST = 127;
    static constexpr int32_t MANTISSA = 23;
    static constexpr float Q[] = {0.6931472f, 0.2402265f, 0.055503566f, 0.009618082f, 0.0013391094f, 0.00015453361f};
};
template <> struct Real<double> {
    typedef double V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef double U __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(double))));
    typedef int64_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr double MAGIC = 6755399441055744.0 + 1023, LOWEST = -1022, HIGHEST = 1023;
    static constexpr int64_t MANTISSA = 52;
    static constexpr double Q[] = {6.931471805599453e-01, 2.402265069591007e-01, 5.550410866482158e-02,
                                   9.618129107628477e-03, 1.333355814642844e-03, 1.540353039338161e-04,
                                   1.525273380405984e-05, 1.321548679014431e-06, 1.017808600923970e-07,
                                   7.054911620801123e-09, 4.445538271870810e-10, 2.567843599348820e-11,
                                   1.369148885390412e-12};
};
template <class T> using Vec = typename Real<T>::V;
template <class T> using Unaligned = typename Real<T>::U;
template <class T> constexpr int64_t LANES = VECTOR_BYTES / sizeof(T);

template <class T> INLINE Vec<T> load(const T* from) { return *reinterpret_cast<const Unaligned<T>*>(from); }
template <class T> INLINE void store(T* to, Vec<T> value) { *reinterpret_cast<Unaligned<T>*>(to) = value; }
template <class T> INLINE Vec<T> splat(T value) { return value - Vec<T>{}; }  // value + 0 would be an addition: of -0

// Load once, into a register: gcc would read the value from memory again at each of its uses, and be bound by loads.
template <class V> INLINE V loaded(V value) {
#if defined(__AVX512F__)
    asm("" : "+v"(value));
#elif defined(__x86_64__)
    asm("" : "+x"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
    return value;
}

template <class T> INLINE Vec<T> root(Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_sqrt_ps((__m512)x);
    else return (Vec<T>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_sqrt_ps((__m256)x);
    else return (Vec<T>)_mm256_sqrt_pd((__m256d)x);
#else
    for (int64_t lane = 0; lane < LANES<T>; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
#endif
}
template <class T> INLINE Vec<T> rsqrt(Vec<T> x) { return T(1) / root<T>(x); }

// A nan fails every comparison, and so stays a nan in these three.
template <class T> INLINE Vec<T> at_least(Vec<T> x, T floor) { return x < floor ? Vec<T>{} + floor : x; }
template <class T> INLINE Vec<T> clipped(Vec<T> x, T limit) {
    x = x > limit ? Vec<T>{} + limit : x;
    return x < -limit ? Vec<T>{} - limit : x;
}
template <class T> INLINE Vec<T> exponential(Vec<T> x) {  // inf from 2^HIGHEST on, 0 below 2^LOWEST
    using R = Real<T>;
    using V = Vec<T>;
    const V y = x * T(LOG2_E);
    V inside = y > R::HIGHEST ? V{} + R::HIGHEST : y;
    inside = inside < R::LOWEST ? V{} + R::LOWEST : inside;
    const V shifted = inside + R::MAGIC, r = inside - (shifted - R::MAGIC);
    constexpr int last = sizeof(R::Q) / sizeof(T) - 1;
    V q = V{} + R::Q[last];
    for (int k = last - 1; k >= 0; --k) q = q * r + R::Q[k];
    const V scale = (V)((typename R::I)shifted << R::MANTISSA);
    V result = scale * (q * r) + scale;
    result = y > R::HIGHEST ? V{} + T(INFINITY) : result;
    return y < R::LOWEST ? V{} : result;
}
template <class T> INLINE T total(Vec<T> x) {
    T sum = 0;
    for (int64_t lane = 0; lane < LANES<T>; ++lane) sum += x[lane];
    return sum;
}

}  // namespace
