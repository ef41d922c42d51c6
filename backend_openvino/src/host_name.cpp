#include "host_name.h"

#include <arpa/inet.h>
#include <strings.h>

#include <algorithm>

namespace {

bool same(const std::string& a, const std::string& b) { return strcasecmp(a.c_str(), b.c_str()) == 0; }

bool is_address(const std::string& text) {
  in6_addr room;
  return inet_pton(AF_INET, text.c_str(), &room) == 1 || inet_pton(AF_INET6, text.c_str(), &room) == 1;
}

}  // namespace

bool names_this_server(const std::string& host, const std::vector<std::string>& own) {
  auto name = host;
  const auto colon = name.rfind(':');
  const bool bracketed = !name.empty() && name.front() == '[';
  if (colon != std::string::npos && (!bracketed || name[colon - 1] == ']')) {
    if (name.find_first_not_of("0123456789", colon + 1) != std::string::npos) return false;
    name.erase(colon);
  }
  if (bracketed) {
    if (name.back() != ']') return false;
    name = name.substr(1, name.size() - 2);
  }
  return is_address(name) || same(name, "localhost") ||
         std::any_of(own.begin(), own.end(), [&](const auto& one) { return same(name, one); });
}
