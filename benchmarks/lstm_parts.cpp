// Times the parts of the LSTM's kernel on one block of coordinates, which lies in the cache.
//
// docs/notebook/performance.md ("On an Intel Xeon") has the command that compiles it.
#include "../src/l2o/optimizers/kernels/lstm.cpp"

#include <chrono>
#include <cstdio>
#include <random>

using Clock = std::chrono::steady_clock;
using V = Vec<float>;
constexpr int64_t B = BLOCK, nv = NV<float, B>, H = 20, F = 2, unit = H * nv;

// Time a part: the least of 15 rounds of `calls` calls. `products` are its multiply-adds.
template <class Part> void time(const char* name, double products, int calls, const Part& part) {
    double least = 1e9;
    for (int round = 0; round < 15; ++round) {
        const auto start = Clock::now();
        for (int call = 0; call < calls; ++call) part();
        least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count() / calls);
    }
    std::printf("%-24s %6.2f us  %6.1f GFLOP/s\n", name, least * 1e6, 2e-9 * products / least);
}

int main() {
    std::mt19937 generator(0);
    std::normal_distribution<float> normal(0, 0.3f);
    std::vector<std::vector<float>> arrays;
    for (int64_t layer = 0; layer < 2; ++layer)
        for (const int64_t size : {4 * H * (layer ? H : F), 4 * H * H, 4 * H, 4 * H}) arrays.emplace_back(size);
    for (const int64_t size : {H, int64_t(1)}) arrays.emplace_back(size);
    std::vector<const float*> weights;
    for (std::vector<float>& array : arrays) {
        for (float& number : array) number = normal(generator);
        weights.push_back(array.data());
    }
    std::vector<Layer<float>> layers = pack_layers<float>(F, H, 2, weights.data());
    Layer<float>& second = layers[1];
    second.to_h = second.transposed(weights[5], H);

    const int64_t vectors = gate_vectors<float>(H);
    Buffer<float> memory(14 * unit + (B + 2 * H + 1) * vectors);
    std::fill_n(memory.data, memory.vectors, V{} + 0.1f);
    V *x = memory.data, *h = x + unit, *c = h + unit, *new_h = c + unit, *new_c = new_h + unit, *gates = new_c + unit;
    V *tanh_c = gates + 4 * unit, *dh = tanh_c + unit, *turned = dh + unit, *total = turned + B * vectors;
    const double layer = 4 * H * 2 * H * B;
    const WithoutSubnormals here;
    time("forward, of the window", layer, 2000, [&] {
        layer_forward<float, B, true>(second, x, h, c, new_h, new_c, gates, tanh_c);
    });
    time("forward, of a step", layer, 2000, [&] {
        layer_forward<float, B, false>(second, x, h, c, new_h, new_c, nullptr, nullptr);
    });
    time("inputs' gradients", layer / 2, 2000, [&] { inputs_backward<float, B>(second.to_h, H, gates, dh, H, false); });
    time("outer products", layer, 2000, [&] {
        turn<float, B>(gates, H, turned, total);
        outer<float, B>(total + vectors, 2 * H, x, turned, vectors);
    });
}
