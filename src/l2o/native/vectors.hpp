// Vectors of numbers as wide as the processor has them, for float and double alike.
//
// All arithmetic runs on GCC's and clang's vector extension, which needs no intrinsics, except for the square root.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
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
// double. In float, 2^r = 1 + r (e_0 + e_1 r + ...) is another fit, to 1.1e-7 of 2^r. Adding MAGIC to a number leaves the
// nearest integer, plus the exponent's bias, in the mantissa's low bits.
//
// log m = f - f^2 / 2 + s (f^2 / 2 + z (g_0 + g_1 z + ...)) for f = m - 1, s = f / (2 + f), z = s^2 and m from root 1/2
// to root 2, as in FreeBSD's msun (Sun Microsystems 1993); log 2 = LOG2_HIGH + LOG2_LOW.
template <class T> struct Real;
template <> struct Real<float> {
    typedef float V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef float U __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(float))));
    typedef int32_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr float INTEGERS = 12582912.0f, MAGIC = INTEGERS + 127, LOWEST = -126, HIGHEST = 127;
    static constexpr int32_t MANTISSA = 23, BIAS = 127;
    static constexpr float Q[] = {0.6931472f, 0.2402265f, 0.055503566f, 0.009618082f, 0.0013391094f, 0.00015453361f};
    static constexpr float E[] = {0.693146978f, 0.240222421f, 0.0555073374f, 0.00967151265f, 0.00132647276f};
    static constexpr float G[] = {0.66666662693f, 0.40000972152f, 0.28498786688f, 0.24279078841f};
    static constexpr float LOG2_HIGH = 6.9313812256e-01f, LOG2_LOW = 9.0580006145e-06f, ROOT_HALF = 0.70710678f;
};
template <> struct Real<double> {
    typedef double V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef double U __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(double))));
    typedef int64_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr double INTEGERS = 6755399441055744.0, MAGIC = INTEGERS + 1023, LOWEST = -1022, HIGHEST = 1023;
    static constexpr int64_t MANTISSA = 52, BIAS = 1023;
    static constexpr double Q[] = {6.931471805599453e-01, 2.402265069591007e-01, 5.550410866482158e-02,
                                   9.618129107628477e-03, 1.333355814642844e-03, 1.540353039338161e-04,
                                   1.525273380405984e-05, 1.321548679014431e-06, 1.017808600923970e-07,
                                   7.054911620801123e-09, 4.445538271870810e-10, 2.567843599348820e-11,
                                   1.369148885390412e-12};
    static constexpr const double (&E)[13] = Q;
    static constexpr double G[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                   2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                   1.479819860511658591e-01};
    static constexpr double LOG2_HIGH = 6.93147180369123816490e-01, LOG2_LOW = 1.90821492927058770002e-10;
    static constexpr double ROOT_HALF = 0.70710678118654752;
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
// c_0 + c_1 x + c_2 x^2 + ...
template <class T, std::size_t N> INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
    Vec<T> sum = Vec<T>{} + c[N - 1];
    for (int k = int(N) - 2; k >= 0; --k) sum = sum * x + c[k];
    return sum;
}
// y = k + r with the integer k that is nearest: gives r, and 2^k, for y from LOWEST to HIGHEST.
template <class T> INLINE Vec<T> fraction(Vec<T> y, Vec<T>& scale) {
    using R = Real<T>;
    const Vec<T> shifted = y + R::MAGIC;
    scale = (Vec<T>)((typename R::I)shifted << R::MANTISSA);
    return y - (shifted - R::MAGIC);
}
// 2^y = scale + scale * rest, with a rest that is accurate however small it is.
template <class T> INLINE void power_of_two(Vec<T> y, Vec<T>& scale, Vec<T>& rest) {
    const Vec<T> r = fraction<T>(y, scale);
    rest = r * polynomial<T>(r, Real<T>::Q);
}
// 2^y, in float to three rounding errors, and with one operation less.
template <class T> INLINE Vec<T> near_power_of_two(Vec<T> y) {
    Vec<T> scale;
    const Vec<T> r = fraction<T>(y, scale);
    return scale * (r * polynomial<T>(r, Real<T>::E) + T(1));
}
template <class T> INLINE Vec<T> exponential(Vec<T> x) {  // inf from 2^HIGHEST on, 0 below 2^LOWEST
    using R = Real<T>;
    using V = Vec<T>;
    const V y = x * T(LOG2_E);
    V inside = y > R::HIGHEST ? V{} + R::HIGHEST : y;
    inside = inside < R::LOWEST ? V{} + R::LOWEST : inside;
    V scale, rest;
    power_of_two<T>(inside, scale, rest);
    V result = scale * rest + scale;
    result = y > R::HIGHEST ? V{} + T(INFINITY) : result;
    return y < R::LOWEST ? V{} : result;
}
template <class T> INLINE Vec<T> logarithm(Vec<T> x) {  // of positive, finite numbers that are not subnormal
    using R = Real<T>;
    using V = Vec<T>;
    using I = typename R::I;
    const I bits = (I)x, offset = (I)(V{} + T(1)) - (I)(V{} + R::ROOT_HALF);
    const I exponent = (bits + offset) >> R::MANTISSA;  // and the bias; positive, as is x
    const V f = (V)(bits - ((exponent - R::BIAS) << R::MANTISSA)) - T(1), s = f / (T(2) + f), z = s * s;
    const V k = (V)((I)(V{} + R::INTEGERS) + exponent) - R::MAGIC;  // the exponent as a number, without the bias
    const V half_square = T(0.5) * f * f;
    return k * R::LOG2_HIGH - ((half_square - (s * (half_square + z * polynomial<T>(z, R::G)) + k * R::LOG2_LOW)) - f);
}
template <class T> INLINE T total(Vec<T> x) {
    T sum = 0;
    for (int64_t lane = 0; lane < LANES<T>; ++lane) sum += x[lane];
    return sum;
}

template <class T> struct Buffer {  // aligned, not initialised: its pages are touched by the thread that uses it
    int64_t vectors;
    Vec<T>* data;
    explicit Buffer(int64_t n)
        : vectors(n), data(static_cast<Vec<T>*>(::operator new(n * VECTOR_BYTES, std::align_val_t(VECTOR_BYTES)))) {}
    Buffer(Buffer&& other) noexcept : vectors(other.vectors), data(std::exchange(other.data, nullptr)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(vectors, other.vectors), std::swap(data, other.data);
        return *this;
    }
    ~Buffer() { ::operator delete(data, std::align_val_t(VECTOR_BYTES)); }
};

}  // namespace
