#include "model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"

namespace {

constexpr const char* kContract = "contract.json";
constexpr const char* kRemedy = "; let policyctl write config.pbtxt: promote the release again";

constexpr int64_t kCompletedBatch = 64;  // what policyctl configures

struct Type {
  const char* contract;
  const char* config;
  TRITONSERVER_DataType triton;
  ov::element::Type type;
};

const Type kTypes[] = {
    {"bool", "TYPE_BOOL", TRITONSERVER_TYPE_BOOL, ov::element::boolean},
    {"uint8", "TYPE_UINT8", TRITONSERVER_TYPE_UINT8, ov::element::u8},
    {"uint16", "TYPE_UINT16", TRITONSERVER_TYPE_UINT16, ov::element::u16},
    {"uint32", "TYPE_UINT32", TRITONSERVER_TYPE_UINT32, ov::element::u32},
    {"uint64", "TYPE_UINT64", TRITONSERVER_TYPE_UINT64, ov::element::u64},
    {"int8", "TYPE_INT8", TRITONSERVER_TYPE_INT8, ov::element::i8},
    {"int16", "TYPE_INT16", TRITONSERVER_TYPE_INT16, ov::element::i16},
    {"int32", "TYPE_INT32", TRITONSERVER_TYPE_INT32, ov::element::i32},
    {"int64", "TYPE_INT64", TRITONSERVER_TYPE_INT64, ov::element::i64},
    {"float16", "TYPE_FP16", TRITONSERVER_TYPE_FP16, ov::element::f16},
    {"float32", "TYPE_FP32", TRITONSERVER_TYPE_FP32, ov::element::f32},
    {"float64", "TYPE_FP64", TRITONSERVER_TYPE_FP64, ov::element::f64},
};

// OpenVINO's options, unless config.pbtxt says otherwise. Full precision is asked for because OpenVINO
// computes in bf16 on every CPU that has it unless it is told not to.
const std::map<std::string, std::string> kDefaults = {
    {"INFERENCE_PRECISION_HINT", "f32"},
    {"INFERENCE_NUM_THREADS", "1"},
};

// Who sets one of these wants OpenVINO's own executor; see Session for what runs inferences otherwise.
const std::set<std::string> kExecutor = {"NUM_STREAMS",          "PERFORMANCE_HINT",       "PERFORMANCE_HINT_NUM_REQUESTS",
                                         "ENABLE_CPU_PINNING",   "ENABLE_HYPER_THREADING", "SCHEDULING_CORE_TYPE",
                                         "ENABLE_CPU_RESERVATION", "EXCLUSIVE_ASYNC_REQUESTS"};

// Means something to NVIDIA's backend of the same name, and nothing here.
const std::set<std::string> kIgnored = {"ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS", "SKIP_OV_DYNAMIC_BATCHSIZE",
                                        "TARGET_DEVICE"};

const Type& type_of(const std::string& text, const char* Type::*column, const std::string& what) {
  for (const Type& type : kTypes)
    if (text == type.*column) return type;
  throw Refused(what + " is " + text + ", which is not served: numbers and booleans are");
}

// name dtype[dims]: what has to be the same in the configuration and in the contract.
struct Port {
  std::string name, dtype;
  std::vector<int64_t> dims;

  bool operator==(const Port& other) const {
    return name == other.name && dtype == other.dtype && dims == other.dims;
  }
};

std::string text_of(const std::vector<Port>& ports) {
  std::string out;
  for (const Port& port : ports) {
    out += (out.empty() ? "" : ", ") + port.name + " " + port.dtype + "[";
    for (size_t i = 0; i < port.dims.size(); ++i) out += (i ? ", " : "") + std::to_string(port.dims[i]);
    out += "]";
  }
  return out.empty() ? "none" : out;
}

std::vector<int64_t> integers(const Json& list) {
  std::vector<int64_t> found;
  for (const Json& item : list.array()) found.push_back(item.integer());
  return found;
}

const std::vector<Json>& list_of(const Json* object, const char* key) {
  static const std::vector<Json> kNone;
  const Json* found = object ? object->find(key) : nullptr;
  return found ? found->array() : kNone;
}

// Ports under `key`, as configured; where Triton does not batch, the batch dimension comes off.
void add_ports(const std::vector<Json>& items, const char* name_key, int64_t max_batch, std::vector<Port>& ports) {
  for (const Json& item : items) {
    Port port{item.at(name_key).string(), "", integers(item.at("dims"))};
    const std::string what = "config.pbtxt: " + port.name;
    port.dtype = type_of(item.at("data_type").string(), &Type::config, what).contract;
    if (const Json* reshape = item.find("reshape"); reshape && !list_of(reshape, "shape").empty())
      throw Refused(what + " has a reshape, which is not served" + kRemedy);
    if (max_batch == 0) {
      if (port.dims.empty() || port.dims[0] != -1)
        throw Refused("config.pbtxt: with max_batch_size 0 the dims of " + port.name + " must begin with -1" +
                      kRemedy);
      port.dims.erase(port.dims.begin());
    }
    ports.push_back(std::move(port));
  }
}

std::vector<double> bounds(const Json& bound, double unbounded) {
  const auto one = [&](const Json& item) { return item.kind == Json::Kind::null ? unbounded : item.number(); };
  std::vector<double> found;
  if (bound.kind == Json::Kind::array)
    for (const Json& item : bound.items) found.push_back(one(item));
  else
    found.push_back(one(bound));
  return found;
}

// A bound in whole numbers, within what the type holds; `inwards` is ceil or floor.
std::vector<int64_t> whole_bounds(const std::vector<double>& bounds, double (*inwards)(double), int64_t least,
                                  int64_t most) {
  std::vector<int64_t> found;
  for (const double bound : bounds) {
    const double inner = inwards(bound);
    // 2^63 is the first double that int64 does not hold.
    found.push_back(inner >= 0x1p63 ? most : inner < -0x1p63 ? least : std::clamp(static_cast<int64_t>(inner), least, most));
  }
  return found;
}

Range range_of(const Tensor& tensor) {
  if (!tensor.type.is_integral_number()) return {};
  const int bits = 8 * static_cast<int>(tensor.type.size()) - (tensor.type.is_signed() ? 1 : 0);
  const int64_t most = bits >= 63 ? std::numeric_limits<int64_t>::max() : (int64_t{1} << bits) - 1;
  const int64_t least = tensor.type.is_signed() ? -most - 1 : 0;
  Range range{whole_bounds(tensor.low, std::ceil, least, most), whole_bounds(tensor.high, std::floor, least, most)};
  const auto all = [](const std::vector<int64_t>& bounds, int64_t bound) {
    return std::all_of(bounds.begin(), bounds.end(), [&](int64_t each) { return each == bound; });
  };
  return all(range.low, least) && all(range.high, most) ? Range{} : range;
}

Tensor tensor_of(const Json& spec) {
  Tensor tensor{};
  tensor.name = spec.at("name").string();
  tensor.dtype = spec.at("dtype").string();
  const Type& type = type_of(tensor.dtype, &Type::contract, "contract: " + tensor.name);
  tensor.triton = type.triton;
  tensor.type = type.type;
  tensor.floating = type.type.is_real();
  tensor.action = tensor.name == "action";
  tensor.scores = tensor.name == "logits" || tensor.name == "q_values";
  for (const int64_t dimension : integers(spec.at("shape"))) {
    if (dimension < 1 || dimension > 1 << 24) throw Refused("contract: " + tensor.name + " has an impossible shape");
    tensor.item.push_back(dimension);
  }
  tensor.row_bytes = tensor.elements() * type.type.size();
  for (const Json& feature : spec.at("features").array()) tensor.features.push_back(feature.string());
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  tensor.low = bounds(spec.at("low"), -kInfinity);
  tensor.high = bounds(spec.at("high"), kInfinity);
  for (const size_t count : {tensor.low.size(), tensor.high.size(), std::max<size_t>(tensor.features.size(), 1)})
    if (count != 1 && count != tensor.elements()) throw Refused("contract: " + tensor.name + " does not fit its shape");
  tensor.range = range_of(tensor);
  return tensor;
}

std::vector<Tensor> tensors_of(const Json& contract, const char* key) {
  std::vector<Tensor> found;
  for (const Json& spec : contract.at(key).array()) found.push_back(tensor_of(spec));
  if (found.empty()) throw Refused(std::string("contract: ") + key + " is empty");
  return found;
}

// Names, types, shapes and order all have to be the same: of the tensors that clients send or get, of
// those that Triton keeps for a sequence (which stand under sequence_batching, in whatever order), and
// of the signals that it gives about one.
void hold_against_contract(const Json& config, const char* kind, const char* key, const char* state_key,
                           int64_t max_batch, std::vector<Tensor>& tensors) {
  const Json* sequences = config.find("sequence_batching");
  std::vector<Port> have, states, want;
  add_ports(list_of(&config, key), "name", max_batch, have);
  add_ports(list_of(sequences, "state"), state_key, max_batch, states);
  std::set<std::string> signals;
  for (const Json& item : list_of(sequences, "control_input")) signals.insert(item.at("name").string());
  size_t states_found = 0;
  for (Tensor& tensor : tensors) {
    Port port{tensor.name, tensor.dtype, {tensor.item.begin(), tensor.item.end()}};
    tensor.state = std::find(states.begin(), states.end(), port) != states.end();
    states_found += tensor.state;
    const auto same_name = [&](const Port& other) { return other.name == tensor.name; };
    const bool listed = std::any_of(have.begin(), have.end(), same_name);
    if (listed || !(tensor.state || signals.count(tensor.name))) want.push_back(std::move(port));
  }
  // Triton would begin a sequence with whatever lies in memory.
  for (const Json& item : list_of(sequences, "state"))
    if (list_of(&item, "initial_state").empty())
      throw Refused("config.pbtxt: state " + item.at(state_key).string() + " has no initial_state" + kRemedy);
  if (states_found != states.size())
    throw Refused("config.pbtxt has states " + text_of(states) + ", not all of which the release's contract has" +
                  kRemedy);
  if (have != want)
    throw Refused(std::string("config.pbtxt has ") + kind + " " + text_of(have) + ", the release's contract says " +
                  text_of(want) + kRemedy);
}

// The artifact's own names and types; finds each tensor's position.
void hold_against_artifact(const std::string& file, const char* kind, const std::vector<ov::Output<ov::Node>>& ports,
                           std::vector<Tensor>& tensors) {
  std::string names;
  for (const auto& port : ports) names += (names.empty() ? "" : ", ") + port.get_any_name();
  for (Tensor& tensor : tensors) {
    const auto at = std::find_if(ports.begin(), ports.end(),
                                 [&](const auto& port) { return port.get_names().count(tensor.name) != 0; });
    if (at == ports.end())
      throw Refused(file + " has no " + kind + " '" + tensor.name + "', it has " + (names.empty() ? "none" : names));
    if (at->get_element_type() != tensor.type)
      throw Refused(file + ": " + kind + " '" + tensor.name + "' is " + at->get_element_type().to_string() +
                    ", config.pbtxt says " + tensor.dtype);
    ov::PartialShape row{ov::Dimension::dynamic()};
    for (const size_t dimension : tensor.item) row.push_back(dimension);
    if (!at->get_partial_shape().compatible(row))
      throw Refused(file + ": " + kind + " '" + tensor.name + "' has shape " + at->get_partial_shape().to_string() +
                    ", the contract says " + row.to_string());
    tensor.position = at - ports.begin();
  }
  // An output that nobody asked for costs little; an input that nobody sends is never right.
  if (std::string(kind) == "input" && ports.size() != tensors.size())
    throw Refused(file + " wants inputs " + names + ", which are not those of config.pbtxt");
}

// Most rows that one inference may have; where the contract sets no limit, `otherwise`.
int64_t largest_batch(const Json& contract, int64_t otherwise) {
  const Json* limit = contract.find("max_batch");
  return limit ? limit->integer() : otherwise;
}

std::string parameter(const Json& config, const char* name, bool required) {
  const Json* parameters = config.find("parameters");
  const Json* found = parameters ? parameters->find(name) : nullptr;
  const std::string value = found ? found->at("string_value").string() : "";
  if (value.empty() && required)
    throw Refused(std::string("config.pbtxt sets no parameter '") + name + "'" + kRemedy);
  return value;
}

void set_options(const Json& config, Model& model) {
  std::map<std::string, std::string> options = kDefaults;
  bool ours = true;
  if (const Json* parameters = config.find("parameters"))
    for (const auto& [name, value] : parameters->members) {
      // A load that a test wants to be slow or leaky must not pass for a sound one.
      if (name.rfind("policyctl_", 0) == 0)
        throw Refused("config.pbtxt: parameter '" + name + "' is for tests with the Python-based backend" + kRemedy);
      const bool theirs = name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == name.npos;
      if (!theirs || kIgnored.count(name)) continue;
      options[name] = value.at("string_value").string();
      if (kExecutor.count(name)) ours = false;
    }
  if (ours) {
    int64_t threads = 0;
    try {
      threads = Json::of(options["INFERENCE_NUM_THREADS"]).integer();
    } catch (const Refused& refusal) {
      throw Refused(std::string("config.pbtxt: INFERENCE_NUM_THREADS: ") + refusal.what());
    }
    if (threads < 1 || threads > 1024)
      throw Refused("config.pbtxt sets INFERENCE_NUM_THREADS to " + std::to_string(threads) +
                    "; it takes 1 to 1024, unless NUM_STREAMS or a hint is set as well");
    model.threads = static_cast<int>(threads);
    options["EXCLUSIVE_ASYNC_REQUESTS"] = "YES";
  }
  model.options.insert(options.begin(), options.end());
}

std::shared_ptr<ov::Model> read_artifact(ov::Core& core, Release& release, const std::string& file,
                                         const std::string& weights) {
  try {
    ov::Tensor constants;
    if (!weights.empty()) {
      std::string& bytes = release.contents.at(weights);
      constants = ov::Tensor(ov::element::u8, {bytes.size()}, bytes.data());
    }
    return core.read_model(release.contents.at(file), constants);
  } catch (const ov::Exception& error) {
    throw Refused(file + " cannot be read: " + error.what());
  }
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::string Tensor::feature(size_t index) const {
  const std::string element = name + "[" + std::to_string(index) + "]";
  return features.empty() ? element : element + " (" + features[index] + ")";
}

std::string Tensor::text() const {
  std::string out = dtype + "[n";
  for (const size_t dimension : item) out += ", " + std::to_string(dimension);
  return out + "]";
}

std::string Model::words(const std::string& more) const {
  return "{\"model\": " + json_quoted(name) + ", \"version\": " + json_quoted(slot) +
         ", \"release\": " + json_quoted(release->version) + more + "}";
}

std::string Model::graphs() const {
  std::string made_of = release->digest + " " + file + " " + std::to_string(max_batch);
  for (const auto& [option, value] : options) made_of += "\n" + option + " " + value.as<std::string>();
  return made_of;
}

std::unique_ptr<Model> load_model(ov::Core& core, const Json& config, const std::string& name,
                                  const std::string& folder, const std::string& slot) {
  auto model = std::make_unique<Model>();
  model->name = name;
  model->slot = slot;
  const Json* configured = config.find("default_model_filename");
  const std::string file = configured && !configured->string().empty() ? configured->string() : "model.xml";
  const std::string weights = ends_with(file, ".xml") ? file.substr(0, file.size() - 4) + ".bin" : "";
  std::set<std::string> keep = {kContract, file};
  if (!weights.empty()) keep.insert(weights);
  model->file = file;
  model->release = std::make_shared<Release>(
      read_release(folder + "/" + slot, parameter(config, "manifest_digest", true), keep));

  // A served name is the model's, or the model's, a dot and the alias's.
  const std::string wanted = name.substr(0, name.find('.')) + " " + parameter(config, "release", true);
  const std::string found = model->release->model + " " + model->release->version;
  if (found != wanted)
    throw Refused(name + ": config.pbtxt says " + wanted + ", the slot's manifest says " + found + kRemedy);

  const Json contract = parse_json(model->release->contents.at(kContract));
  const std::string shown = parameter(config, "contract", false);
  if (!shown.empty() && !(parse_json(shown) == contract))
    throw Refused(std::string("config.pbtxt: parameter 'contract' is not the contract of the release") + kRemedy);
  model->max_batch = config.at("max_batch_size").integer();
  const int64_t allowed = largest_batch(contract, std::numeric_limits<int64_t>::max());
  if (contract.find("max_batch") && (model->max_batch < 1 || model->max_batch > allowed))
    throw Refused("config.pbtxt has max_batch_size " + std::to_string(model->max_batch) + ", the contract allows " +
                  std::to_string(allowed) + " rows" + kRemedy);
  model->inputs = tensors_of(contract, "observations");
  model->outputs = tensors_of(contract, "outputs");
  hold_against_contract(config, "inputs", "input", "input_name", model->max_batch, model->inputs);
  hold_against_contract(config, "outputs", "output", "output_name", model->max_batch, model->outputs);

  model->artifact = read_artifact(core, *model->release, file, weights);
  hold_against_artifact(file, "input", model->artifact->inputs(), model->inputs);
  hold_against_artifact(file, "output", model->artifact->outputs(), model->outputs);
  model->artifact_bytes = model->release->contents.at(weights.empty() ? file : weights).size();
  set_options(config, *model);
  model->tells = parameter(config, "response_parameters", false) != "none";
  if (const std::string generation = parameter(config, "generation", false); !generation.empty())
    model->generation = Json::of(generation).integer();
  return model;
}

bool complete(Json& config, const std::string& folder, const std::string& slot) {
  if (!list_of(&config, "input").empty() || !list_of(&config, "output").empty()) return false;
  const Release release = read_release(folder + "/" + slot, parameter(config, "manifest_digest", true), {kContract});
  const Json contract = parse_json(release.contents.at(kContract));
  for (const auto& [key, from] : {std::pair{"input", "observations"}, std::pair{"output", "outputs"}}) {
    Json list;
    list.kind = Json::Kind::array;
    for (const Json& spec : contract.at(from).array()) {
      Json port;
      port.kind = Json::Kind::object;
      port.set("name", spec.at("name"));
      const std::string what = "contract: " + spec.at("name").string();
      port.set("data_type", Json::of(type_of(spec.at("dtype").string(), &Type::contract, what).config));
      port.set("dims", spec.at("shape"));
      list.items.push_back(std::move(port));
    }
    config.set(key, std::move(list));
  }
  if (config.at("max_batch_size").integer() == 0) config.set("max_batch_size", Json::of(largest_batch(contract, kCompletedBatch)));
  return true;
}
