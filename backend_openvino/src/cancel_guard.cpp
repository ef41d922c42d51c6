// Keeps a cancelled gRPC call of Triton's alive until Triton has heard everything about it.
//
// Each unary call makes three events: it began, its answer went out (or could not), and gRPC has done with it. A
// client's deadline or cancellation may bring the third before the second, and where both come at once to Triton 2.51,
// one of its two threads gives the call's state back while the other one has yet to look at it: the server ends by
// signal 11 (mended in Triton by pull requests 7840 and 8078). Some of these states it never gives back at all.
//
// So the events are counted: a state is given back at the third, whatever the first two said; an event that says at
// once that there is no call (the server stops) is the only one. What is replaced is the one virtual function through
// which all events go, in the table of `ModelInferHandler`.
#include <array>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "guard.h"

namespace {

constexpr char kTable[] = "_ZTVN6triton6server4grpc17ModelInferHandlerE";
// bool ModelInferHandler::Process(State* state, bool rpc_ok): whether more is to come.
constexpr char kProcess[] =
    "_ZN6triton6server4grpc17ModelInferHandler7ProcessEPNS1_17InferHandlerStateIN4grpc25ServerAsyncResponseWriter"
    "IN9inference18ModelInferResponseEEENS6_17ModelInferRequestES7_EEb";
constexpr int kEvents = 3;

using Process = bool (*)(void* handler, void* state, bool ok);
Process tritons_process = nullptr;

// The two threads of Triton seldom meet in one of so many. A state that was given back stays in its map with no events:
// Triton uses the memory again.
struct alignas(64) Stripe {
  std::mutex lock;
  std::unordered_map<void*, int> events;
};
std::array<Stripe, 256> stripes;

// By Fibonacci hashing: states lie at regular distances.
Stripe& stripe_of(const void* state) {
  return stripes[(reinterpret_cast<std::uintptr_t>(state) >> 4) * 0x9E3779B97F4A7C15u >> 56];
}

bool process(void* handler, void* state, bool ok) {
  auto& stripe = stripe_of(state);
  // Held while Triton works on the event: the last one must not give the state back under an earlier one.
  const std::lock_guard<std::mutex> held(stripe.lock);
  auto& event = stripe.events[state];
  ++event;
  const bool more = tritons_process(handler, state, ok);
  if (event < kEvents && (more || event > 1)) return true;
  event = 0;
  return false;
}

bool install(const Symbols& symbols) {
  tritons_process = reinterpret_cast<Process>(
      replace_entry(symbols.at(kTable), symbols.at(kProcess), reinterpret_cast<void*>(&process)));
  return tritons_process != nullptr;
}

}  // namespace

Part cancelled_calls() { return {"cancelled calls", {kTable, kProcess}, install}; }
