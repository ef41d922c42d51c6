#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <openvino/core/preprocess/pre_post_process.hpp>

#include "errors.h"

namespace {

constexpr size_t kSmallBytes = 1 << 20;  // of the artifact: what stays in the cache from one piece to the next
constexpr size_t kLargestPiece = 16;     // beyond it, time goes by the row

// The bytes of `value` as element type `type`; for the first input that a graph ever sees.
void write(const ov::element::Type& type, double value, std::byte* to) {
  const auto as = [&](auto typed) { std::memcpy(to, &typed, sizeof(typed)); };
  switch (ov::element::Type_t(type)) {
    case ov::element::Type_t::boolean: return as(value != 0);
    case ov::element::Type_t::u8: return as(uint8_t(value));
    case ov::element::Type_t::u16: return as(uint16_t(value));
    case ov::element::Type_t::u32: return as(uint32_t(value));
    case ov::element::Type_t::u64: return as(uint64_t(value));
    case ov::element::Type_t::i8: return as(int8_t(value));
    case ov::element::Type_t::i16: return as(int16_t(value));
    case ov::element::Type_t::i32: return as(int32_t(value));
    case ov::element::Type_t::i64: return as(int64_t(value));
    case ov::element::Type_t::f16: return as(ov::float16(float(value)));
    case ov::element::Type_t::f32: return as(float(value));
    default: return as(value);
  }
}

double nearest_to_zero(const Tensor& tensor, size_t element) {
  const auto one = [&](const std::vector<double>& bound) { return bound[bound.size() == 1 ? 0 : element]; };
  return std::min(std::max(0.0, one(tensor.low)), one(tensor.high));
}

// Float32 at every edge that was float64.
std::shared_ptr<ov::Model> without_float64(const std::shared_ptr<ov::Model>& model, const Model& contract) {
  ov::preprocess::PrePostProcessor edges(model);
  for (const Tensor& input : contract.inputs)
    if (input.wide()) edges.input(input.position).tensor().set_element_type(ov::element::f32);
  for (const Tensor& output : contract.outputs)
    if (output.wide()) edges.output(output.position).tensor().set_element_type(ov::element::f32);
  return edges.build();
}

// What float32 cannot hold becomes its largest number, as inside OpenVINO; NaN stays NaN.
void narrow(const std::byte* from, size_t count, std::vector<float>& to) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (to.size() < count) to.resize(count);
  for (size_t i = 0; i < count; ++i) {
    double value;
    std::memcpy(&value, from + i * sizeof(double), sizeof(double));
    to[i] = static_cast<float>(value > kLargest ? kLargest : value < -kLargest ? -kLargest : value);
  }
}

}  // namespace

Session::Session(ov::Core& core, Spares& spares, const Model& model)
    : model_(model),
      spares_(spares),
      small_(model.artifact_bytes <= kSmallBytes),
      rooms_(model.inputs.size()),
      answers_(model.outputs.size()),
      wide_(model.outputs.size()),
      sources_(model.inputs.size()),
      piece_sources_(model.inputs.size()),
      outputs_(model.outputs.size()) {
  if (model.threads > 0) arena_ = std::make_unique<tbb::task_arena>(model.threads);
  const size_t largest = model.max_batch > 0 ? model.max_batch : SIZE_MAX;
  Compiled spare = small_ ? spares.take(model.graphs()) : Compiled();
  weights_ = spare.release ? spare.release : model.release;
  inside([&] {
    for (size_t rows = 1; rows <= std::min(largest, small_ ? kLargestPiece : 1); rows *= 2)
      fixed_.push_back(graph(core, spare, static_cast<int64_t>(rows)));
    const ov::Dimension any = model.max_batch > 0 ? ov::Dimension(1, model.max_batch) : ov::Dimension();
    if (largest > 1) any_ = graph(core, spare, any);
  });
  for (size_t i = 0; i < model.inputs.size(); ++i) room(i, 0, std::max<int64_t>(model.max_batch, 1));
  for (size_t i = 0; i < model.outputs.size(); ++i) answers_[i].resize(2 * kLargestPiece * model.outputs[i].row_bytes);
  for (size_t piece = 0; small_ && piece < fixed_.size(); ++piece)
    for (const Tensor& input : model.inputs) fixed_[piece].rooms.emplace_back((size_t{1} << piece) * input.row_bytes);
  warm_up();
}

Session::~Session() {
  if (!small_ || model_.doubted) return;  // the weights of a large policy would be in memory twice
  try {
    Compiled spare{weights_, {}};
    for (Graph& each : fixed_) spare.graphs.push_back(std::move(each.compiled));
    if (any_.compiled) spare.graphs.push_back(std::move(any_.compiled));
    spares_.keep(model_.graphs(), std::move(spare));
  } catch (const std::exception&) {
    // Without room for it, the next load compiles.
  }
}

// The next graph of `spare`, as they were kept in the order of their making; else a new one.
Session::Graph Session::graph(ov::Core& core, Compiled& spare, const ov::Dimension& rows) const {
  const size_t next = fixed_.size();
  Graph made;
  made.compiled = next < spare.graphs.size() ? std::move(spare.graphs[next]) : compile(core, rows);
  made.request = made.compiled.create_infer_request();
  made.bound.resize(model_.inputs.size());
  made.narrow.resize(model_.inputs.size());
  return made;
}

ov::CompiledModel Session::compile(ov::Core& core, const ov::Dimension& rows) const {
  auto artifact = model_.artifact->clone();
  std::map<size_t, ov::PartialShape> shapes;
  for (const Tensor& input : model_.inputs) {
    ov::PartialShape shape{rows};
    for (const size_t dimension : input.item) shape.push_back(dimension);
    shapes[input.position] = shape;
  }
  artifact->reshape(shapes);
  return core.compile_model(without_float64(artifact, model_), "CPU", model_.options);
}

std::byte* Session::room(size_t index, size_t first, size_t rows) {
  const size_t row_bytes = model_.inputs[index].row_bytes, needed = (first + rows) * row_bytes;
  std::vector<std::byte>& bytes = rooms_[index];
  if (bytes.size() < needed) bytes.resize(needed);  // never on the hot path, for Triton bounds batches
  return bytes.data() + first * row_bytes;
}

void Session::run(size_t first, size_t rows, const std::byte* const* direct) {
  for (size_t i = 0; i < sources_.size(); ++i)
    sources_[i] = direct ? direct[i] : rooms_[i].data() + first * model_.inputs[i].row_bytes;
  if (small_ && rows < size_t{2} << (fixed_.size() - 1))
    infer_in_pieces(rows);
  else
    infer(rows == 1 ? fixed_[0] : any_, rows, sources_.data());
}

void Session::infer_in_pieces(size_t rows) {
  size_t done = 0;
  for (size_t piece = fixed_.size(); piece-- > 0;) {
    const size_t size = size_t{1} << piece;
    if (!(rows & size)) continue;
    Graph& graph = fixed_[piece];
    for (size_t i = 0; i < sources_.size(); ++i) {
      const size_t row_bytes = model_.inputs[i].row_bytes;
      std::memcpy(graph.rooms[i].data(), sources_[i] + done * row_bytes, size * row_bytes);
      piece_sources_[i] = graph.rooms[i].data();
    }
    infer(graph, size, piece_sources_.data());
    if (size == rows) return;  // one piece: its outputs are the batch's
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const size_t row_bytes = model_.outputs[i].row_bytes;
      std::memcpy(answers_[i].data() + done * row_bytes, outputs_[i], size * row_bytes);
    }
    done += size;
  }
  for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = answers_[i].data();
}

// Runs one graph on the rows that begin at `from`, one address an input.
void Session::infer(Graph& graph, size_t rows, const std::byte* const* from) {
  for (size_t i = 0; i < model_.inputs.size(); ++i) {
    const Tensor& input = model_.inputs[i];
    const std::byte* bytes = from[i];
    if (input.wide()) {
      narrow(bytes, rows * input.elements(), graph.narrow[i]);
      bytes = reinterpret_cast<const std::byte*>(graph.narrow[i].data());
    }
    if (graph.bound[i] == bytes && graph.rows == rows) continue;
    ov::Shape shape{rows};
    shape.insert(shape.end(), input.item.begin(), input.item.end());
    const ov::element::Type type = input.wide() ? ov::element::f32 : input.type;
    graph.request.set_input_tensor(input.position, ov::Tensor(type, shape, const_cast<std::byte*>(bytes)));
    graph.bound[i] = bytes;
  }
  graph.rows = rows;
  inside([&] { graph.request.infer(); });
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Tensor& output = model_.outputs[i];
    const ov::Tensor found = graph.request.get_output_tensor(output.position);
    const ov::Shape& shape = found.get_shape();
    if (shape.size() != output.item.size() + 1 || shape[0] != rows ||
        !std::equal(output.item.begin(), output.item.end(), shape.begin() + 1))
      throw Refused("the artifact gave " + output.name + " as " + ov::PartialShape(shape).to_string() +
                    ", not what the contract says for " + std::to_string(rows) + " rows");
    outputs_[i] = static_cast<const std::byte*>(found.data());
    if (!output.wide()) continue;
    const float* values = found.data<const float>();
    wide_[i].assign(values, values + found.get_size());
    outputs_[i] = reinterpret_cast<const std::byte*>(wide_[i].data());
  }
}

// Answers once on every graph before Triton calls the model ready, so that no client waits for what
// happens once.
void Session::warm_up() {
  const size_t largest = model_.max_batch > 0 ? model_.max_batch : SIZE_MAX;
  for (size_t rows = 1; rows <= std::min(largest, 2 * kLargestPiece); rows *= 2) {
    for (size_t i = 0; i < model_.inputs.size(); ++i) {
      const Tensor& input = model_.inputs[i];
      const size_t elements = input.elements();
      std::byte* to = room(i, 0, rows);
      for (size_t at = 0; at < rows * elements; ++at)
        write(input.type, nearest_to_zero(input, at % elements), to + at * input.type.size());
    }
    run(0, rows);
  }
}
