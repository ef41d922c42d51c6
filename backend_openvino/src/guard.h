// The guard of Triton: a library that is preloaded into tritonserver 2.51, and mends what ends that server.
//
// Each part puts functions of its own in front of Triton's. Where a function is exported, the loader takes the guard's.
// Where it is not, a table of the executable holds its address, and the guard writes its own address there.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <string>
#include <vector>

#include "guard_executable.h"

struct Part {
  const char* name;
  std::vector<std::string_view> symbols;  // of the executable; none can be missing
  bool (*install)(const Symbols&);        // whether it guards now
};

Part cancelled_calls();
Part grpc_messages();
Part http_requests();
Part shared_memory();

// What `policyctl serve` allows, in the environment of the server.
struct Limits {
  std::uint64_t request_bytes = 64 << 20;  // TRITON_GUARD_REQUEST_BYTES: of one request, as it is sent and as it is read
  std::vector<std::string> hosts;          // TRITON_GUARD_HOSTS: names of this server that a client may use
};

const Limits& limits();

// An error that Triton passes on to the client: the request has `fault`.
void* triton_error(const std::string& fault);

// Triton's own function, in front of which the guard stands.
template <typename Function>
Function tritons(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}
