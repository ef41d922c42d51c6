// Bounds what one message to Triton's gRPC server may bring.
//
// Triton sets gRPC's limit to 2 GiB, and lets a client send messages compressed: of some megabytes a thousand times as
// many become in memory. Both are channel arguments, of which the first of a name counts. Triton sets others as options
// of the server's builder. So the guard stands in for the function that adds such an option: it lowers the limit, which
// is there by then, and adds that nothing is compressed before gRPC adds what it would allow.
#include <algorithm>
#include <climits>
#include <cstring>

#include "guard.h"

namespace {

constexpr char kTable[] = "_ZTVZN4grpc25MakeChannelArgumentOptionERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEiE9IntOption";
constexpr char kUpdate[] =
    "_ZZN4grpc25MakeChannelArgumentOptionERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEiEN9IntOption"
    "15UpdateArgumentsEPNS_16ChannelArgumentsE";
constexpr char kSetInt[] =
    "_ZN4grpc16ChannelArguments6SetIntERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEi";
constexpr int kUncompressedOnly = 1;  // a bit for each algorithm, of which none is the first

// What gRPC's C API calls grpc_arg, and the one vector that its class of such arguments begins with.
struct Argument {
  int type;
  const char* key;
  std::int64_t number, other;
};
struct Arguments {
  Argument *begin, *end;
};

using Update = void (*)(void* option, Arguments* arguments);
using SetInt = void (*)(Arguments* arguments, const std::string& key, int value);
Update tritons_update = nullptr;
SetInt set_int = nullptr;

void update(void* option, Arguments* arguments) {
  set_int(arguments, "grpc.compression_enabled_algorithms_bitset", kUncompressedOnly);
  for (auto* each = arguments->begin; each != arguments->end; ++each) {
    if (std::strcmp(each->key, "grpc.max_receive_message_length") == 0)
      each->number = static_cast<int>(std::min<std::uint64_t>(limits().request_bytes, INT_MAX));
  }
  tritons_update(option, arguments);
}

bool install(const Symbols& symbols) {
  set_int = reinterpret_cast<SetInt>(symbols.at(kSetInt).address);
  tritons_update = reinterpret_cast<Update>(
      replace_entry(symbols.at(kTable), symbols.at(kUpdate), reinterpret_cast<void*>(&update)));
  return tritons_update != nullptr;
}

}  // namespace

Part grpc_messages() { return {"gRPC messages", {kTable, kUpdate, kSetInt}, install}; }
