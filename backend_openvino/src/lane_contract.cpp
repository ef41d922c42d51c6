#include "lane_contract.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "json.h"
#include "sha256.h"

namespace lane {
namespace {

// In the order of Triton's numbers.
constexpr std::string_view kTypes[] = {"",     "bool",  "uint8", "uint16", "uint32",  "uint64", "int8",
                                       "int16", "int32", "int64", "float16", "float32", "float64"};

std::vector<Tensor> tensors_of(const Json& specs) {
  std::vector<Tensor> tensors;
  for (const auto& spec : specs.array()) {
    Tensor tensor;
    tensor.name = spec.at("name").string();
    const auto* const type = std::find(std::begin(kTypes), std::end(kTypes), spec.at("dtype").string());
    if (type == std::end(kTypes)) throw Refused(tensor.name + " has a data type that the lane does not carry");
    tensor.type = static_cast<int>(type - std::begin(kTypes));
    for (const auto& dimension : spec.at("shape").array()) tensor.shape.push_back(dimension.integer());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// The slot of a release, from the map of all: only one has it.
std::int64_t slot_of(const Json& releases, const std::string& release) {
  for (const auto& [slot, name] : releases.members)
    if (name.string() == release) return std::strtoll(slot.c_str(), nullptr, 10);
  throw Refused("the configuration names no slot of release " + release);
}

}  // namespace

Contract read_contract(std::string_view config) {
  const auto parsed = parse_json(config);
  const auto* const parameters = parsed.find("parameters");
  if (parameters == nullptr || parameters->find("contract") == nullptr || parameters->find("release") == nullptr)
    throw Refused("policyctl does not serve this model, so it has no contract");
  const auto text_of = [&](const char* key) { return parameters->at(key).at("string_value").string(); };
  const auto release = text_of("release"), text = text_of("contract");
  const auto contract = parse_json(text);
  Sha256 sha;
  sha.add(text.data(), text.size());
  return {slot_of(parse_json(text_of("releases")), release), release, sha.digest(),
          tensors_of(contract.at("observations")), tensors_of(contract.at("outputs"))};
}

}  // namespace lane
