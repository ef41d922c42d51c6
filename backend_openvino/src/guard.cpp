#include "guard.h"

#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace {

constexpr int kExit = 70;  // EX_SOFTWARE

Limits read_limits() {
  Limits found;
  if (const char* bytes = std::getenv("TRITON_GUARD_REQUEST_BYTES")) found.request_bytes = std::strtoull(bytes, nullptr, 10);
  char name[HOST_NAME_MAX + 1] = "";
  if (gethostname(name, sizeof name - 1) == 0) found.hosts.emplace_back(name);
  if (const char* hosts = std::getenv("TRITON_GUARD_HOSTS")) {
    std::istringstream names(hosts);
    for (std::string host; std::getline(names, host, ',');) found.hosts.push_back(host);
  }
  return found;
}

// Every program that the server starts inherits the preload.
bool is_tritonserver() {
  char path[PATH_MAX] = "";
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return false;
  const char* name = std::strrchr(path, '/');
  return name != nullptr && std::strcmp(name + 1, "tritonserver") == 0;
}

__attribute__((constructor)) void stand_guard() {
  const Part parts[] = {cancelled_calls(), grpc_messages(), http_requests(), shared_memory()};
  Symbols symbols;
  for (const auto& part : parts)
    for (const auto& name : part.symbols) symbols[name];
  find_symbols(symbols);
  const bool must = is_tritonserver();
  for (const auto& part : parts) {
    bool complete = true;
    for (const auto& name : part.symbols) complete = complete && symbols[name].address != 0;
    if ((complete && part.install(symbols)) || !must) continue;
    // A server that is believed to be guarded must not run without.
    std::fprintf(stderr, "error: the guard does not fit this tritonserver (%s); it is made for 2.51\n", part.name);
    _exit(kExit);
  }
}

}  // namespace

void* triton_error(const std::string& fault) {
  constexpr int kInvalidArgument = 3;
  static const auto make = tritons<void* (*)(int, const char*)>("TRITONSERVER_ErrorNew");
  return make(kInvalidArgument, fault.c_str());
}

const Limits& limits() {
  static const Limits found = read_limits();
  return found;
}
