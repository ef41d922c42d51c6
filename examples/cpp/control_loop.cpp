// A control loop that asks a served policy for each action, through the local lane.
//
//   control_loop MODEL URL HZ DEADLINE_US < observations > actions
//   control_loop walker local: 1000 800
//
// Each line of the input is an observation: the numbers of the policy's only input. Each line of the output is the
// release that answered and its action, or `hold`, the code of the error and what is wrong: then the machine holds.
// HZ 0 asks for each line at once.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "policyctl_lane.hpp"

int main(int count, char** words) {
  if (count != 5) {
    std::cerr << "usage: control_loop MODEL URL HZ DEADLINE_US < observations > actions\n";
    return 2;
  }
  const double hz = std::atof(words[3]);
  const std::chrono::microseconds deadline(std::atoll(words[4]));
  const std::chrono::nanoseconds period(hz > 0 ? static_cast<long long>(1e9 / hz) : 0);
  try {
    policyctl::Lane lane(words[1], words[2]);
    const auto input = lane.contract().inputs.at(0);
    const auto output = lane.contract().outputs.at(0);  // the action
    std::vector<float> observation, action(output.elements);
    bool holds = false;
    auto next = std::chrono::steady_clock::now();
    for (std::string line; std::getline(std::cin, line); next += period) {
      if (hz > 0) std::this_thread::sleep_until(next);
      std::istringstream numbers(line);
      observation.clear();
      for (float number; numbers >> number;) observation.push_back(number);
      try {
        if (holds) lane.reopen();  // a machine reads its sensors after this
        holds = true;
        lane.set(input.name, observation);
        lane.ask(deadline);
        lane.get(output.name, action);
        holds = false;
        std::printf("%s", lane.release().c_str());
        for (const float number : action) std::printf(" %.9g", number);
      } catch (const policyctl::Error& error) {
        std::printf("hold %u %s", static_cast<unsigned>(error.code), error.what());
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  } catch (const policyctl::Error& error) {
    std::fprintf(stderr, "error %u: %s\n", static_cast<unsigned>(error.code), error.what());
    return 1;
  }
}
