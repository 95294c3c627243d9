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
#endif

// The process whose OpenMP pool this is: it does not survive a fork. Set by whoever loads the library.
extern "C" std::int64_t l2o_pool_owner;
std::int64_t l2o_pool_owner = 0;

namespace {

// run() on every thread of a team, this one among them; on the `busy` threads that have work, or fewer where the system
// grants no more, where the team would have to be started. OpenMP ends and starts threads where a team's size changes.
template <class Run> void on_threads(int64_t team, int64_t busy, const Run& run) {
    if (busy <= 1) return run();
#if defined(__linux__)
    if (GOMP_parallel && getpid() == l2o_pool_owner)
        return GOMP_parallel([](void* data) { (*static_cast<const Run*>(data))(); }, const_cast<Run*>(&run), unsigned(team), 0);
#endif
    std::vector<std::thread> others;
    others.reserve(busy);
    try {
        while (int64_t(others.size()) + 1 < busy) others.emplace_back(std::cref(run));
    } catch (const std::system_error&) {
    }
    run();
    for (std::thread& thread : others) thread.join();
}

// job(i, workspace) for every i below count. Each thread has a workspace of its own, and takes the next job as it comes.
template <class Workspace, class Job> void parallel(int64_t count, int64_t threads, std::vector<Workspace>& workspaces, const Job& job) {
    const int64_t busy = std::max<int64_t>(1, std::min(threads, count));
    std::atomic<int64_t> next{0}, started{0};
    on_threads(threads, busy, [&] {
        const int64_t own = started++;
        if (own >= busy) return;
        for (int64_t i; (i = next++) < count;) job(i, workspaces[own]);
    });
}

}  // namespace
