// Jobs shared out among threads: those of torch's own OpenMP pool where there is one.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <unistd.h>
// torch's pool, where torch has loaded GNU's OpenMP (or one that is compatible); else null. Its idle threads spin for a
// while: threads of our own would have to share the processors with them.
extern "C" __attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
extern "C" __attribute__((weak)) int omp_get_thread_num();
#endif

// The process whose OpenMP pool this is: it does not survive a fork. Set by whoever loads the library.
extern "C" std::int64_t l2o_pool_owner;
std::int64_t l2o_pool_owner = 0;

namespace {

// While it lives, what this thread computes is zero where it would be a subnormal number (below 1e-38 in float32). To
// compute with one takes a hundred times as long on many x86 processors, and whatever decays from step to step, as
// adjoints and moving averages do, comes to them. What is read is read as it is, and torch's own arithmetic is as before.
// Elsewhere nothing changes: AArch64's flag would make zeros of what is read, too, and so other features of gradients.
class WithoutSubnormals {
#if defined(__SSE2__)
    unsigned before = __builtin_ia32_stmxcsr();

public:
    WithoutSubnormals() { __builtin_ia32_ldmxcsr(before | 0x8000); }  // "flush to zero"
    ~WithoutSubnormals() { __builtin_ia32_ldmxcsr(before); }
#else
public:
    WithoutSubnormals() {}
#endif
    WithoutSubnormals(const WithoutSubnormals&) = delete;
    void operator=(const WithoutSubnormals&) = delete;
};

// run(i) on every thread i of a team, this one among them; on the `busy` threads that have work, or fewer where the system
// grants no more, where the team would have to be started. OpenMP ends and starts threads where a team's size changes.
template <class Run> void on_threads([[maybe_unused]] int64_t team, int64_t busy, const Run& run) {
    if (busy <= 1) return run(0);
#if defined(__linux__)
    if (GOMP_parallel && omp_get_thread_num && getpid() == l2o_pool_owner)
        return GOMP_parallel([](void* data) { (*static_cast<const Run*>(data))(omp_get_thread_num()); },
                             const_cast<Run*>(&run), unsigned(team), 0);
#endif
    std::vector<std::thread> others;
    others.reserve(busy);
    try {
        while (int64_t(others.size()) + 1 < busy) others.emplace_back(std::cref(run), int64_t(others.size()) + 1);
    } catch (const std::system_error&) {
    }
    run(0);
    for (std::thread& thread : others) thread.join();
}

// job(i, workspace) for every i below count. Each thread has a workspace of its own, and a range of jobs, which is the same
// in the next call with as many: their memory stays in its cache. Who is through takes what is left of the others' ranges.
// Jobs compute without subnormal numbers.
template <class Workspace, class Job> void parallel(int64_t count, int64_t threads, std::vector<Workspace>& workspaces, const Job& job) {
    const int64_t busy = std::max<int64_t>(1, std::min(threads, count));
    const auto start = [&](int64_t thread) { return thread * count / busy; };
    struct alignas(128) Next {  // in a line of the cache of its own
        std::atomic<int64_t> job;
    };
    std::vector<Next> next(busy);
    for (int64_t thread = 0; thread < busy; ++thread) next[thread].job = start(thread);
    on_threads(threads, busy, [&](int64_t own) {
        const WithoutSubnormals here;
        for (int64_t k = own; k < own + busy && own < busy; ++k)
            for (int64_t i; (i = next[k % busy].job++) < start(k % busy + 1);) job(i, workspaces[own]);
    });
}

}  // namespace
