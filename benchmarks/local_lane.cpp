// The way "lane, C++" of benchmarks/local_lane.py: asks a model by the local lane, when a line on stdin says so.
//
//   local_lane MODEL URL ROWS
//
// Stdin first has that many observations as float32; stdout answers with a line, the action for the first one. Then
// each line "SECONDS HZ" is a turn, which is answered by a line "calls processor_ns missed" and the times of the calls,
// in nanoseconds as uint64. HZ 0 asks back to back.
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "policyctl_lane.hpp"

namespace {

constexpr std::chrono::seconds kDeadline(10);

std::int64_t now_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void sleep_until(std::int64_t at_ns) {
  const timespec time{static_cast<time_t>(at_ns / 1'000'000'000), static_cast<long>(at_ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) != 0) continue;
}

}  // namespace

int main(int count, char** words) try {
  if (count != 4) return 2;
  policyctl::Lane lane(words[1], words[2]);
  const auto input = lane.contract().inputs.at(0), output = lane.contract().outputs.at(0);
  std::vector<std::vector<float>> observations(std::atoll(words[3]), std::vector<float>(input.elements));
  for (auto& each : observations)
    if (std::fread(each.data(), sizeof(float), each.size(), stdin) != each.size()) return 2;
  std::vector<float> action(output.elements);
  const auto ask = [&](const std::vector<float>& observation) {
    lane.set(input.name, observation);
    lane.ask(kDeadline);
    lane.get(output.name, action);
  };
  ask(observations.at(0));
  for (const float number : action) std::printf("%.9g ", number);
  std::printf("\n");
  std::fflush(stdout);
  std::vector<std::uint64_t> times;
  times.reserve(1 << 20);
  for (double seconds, hz; std::scanf("%lf %lf", &seconds, &hz) == 2;) {
    times.clear();
    long missed = 0;
    const auto period_ns = hz > 0 ? static_cast<std::int64_t>(1e9 / hz) : 0;
    const auto processor_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
    auto next_ns = now_ns(CLOCK_MONOTONIC);
    const auto until_ns = next_ns + static_cast<std::int64_t>(seconds * 1e9);
    for (;;) {
      auto begin = now_ns(CLOCK_MONOTONIC);
      if (begin >= until_ns) break;
      if (begin < next_ns) {
        sleep_until(next_ns);
        begin = now_ns(CLOCK_MONOTONIC);
      }
      ask(observations[times.size() % observations.size()]);
      const auto end = now_ns(CLOCK_MONOTONIC);
      times.push_back(static_cast<std::uint64_t>(end - begin));
      if (period_ns == 0) continue;
      next_ns += period_ns;
      missed += end > next_ns;
      next_ns = std::max(next_ns, end);
    }
    std::printf("%zu %lld %ld\n", times.size(),
                static_cast<long long>(now_ns(CLOCK_THREAD_CPUTIME_ID) - processor_ns), missed);
    std::fwrite(times.data(), sizeof times[0], times.size(), stdout);
    std::fflush(stdout);
  }
} catch (const policyctl::Error& error) {
  std::fprintf(stderr, "error %u: %s\n", static_cast<unsigned>(error.code), error.what());
  return 1;
}
