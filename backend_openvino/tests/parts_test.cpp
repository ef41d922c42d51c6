// Tests of the parts that know neither Triton nor OpenVINO, and a door to them for tests in Python.
//
//   parts_test                              runs the tests below
//   parts_test sha256 < bytes               prints the digest
//   parts_test json < bytes                 prints the text of what was read; exits with 1 where it is refused
//   parts_test read FOLDER DIGEST KEPT...   reads a release; exits with 1 where it is refused

#include <cstdio>
#include <functional>
#include <iostream>
#include <iterator>
#include <limits>
#include <random>

#include "errors.h"
#include "finite.h"
#include "host_name.h"
#include "json.h"
#include "json_depth.h"
#include "lane_message.h"
#include "range.h"
#include "release.h"
#include "sha256.h"

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::cerr << "FAILED: " << what << "\n";
}

bool refused(const std::function<void()>& work) {
  try {
    work();
    return false;
  } catch (const Refused&) {
    return true;
  }
}

std::string digest(const std::string& bytes, size_t piece) {
  Sha256 hasher;
  for (size_t at = 0; at < bytes.size(); at += piece) hasher.add(bytes.data() + at, std::min(piece, bytes.size() - at));
  return hasher.digest();
}

// The examples of FIPS 180-4, and its lengths around the end of a block.
void sha256_is_that_of_the_standard() {
  const std::pair<std::string, std::string> known[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const auto& [bytes, hex] : known)
    for (const size_t piece : {1, 7, 64, 1 << 20})
      expect(digest(bytes, piece) == "sha256:" + hex, "sha256 of " + std::to_string(bytes.size()) + " bytes");
  for (size_t size = 0; size < 200; ++size)
    expect(digest(std::string(size, 'x'), 1) == digest(std::string(size, 'x'), 200),
           "pieces do not matter at " + std::to_string(size));
}

void json_is_read_strictly() {
  for (const char* good : {"null", " [ 1 , -2.5e+3 , 0 ] ", R"({"a":{"b":[true,false]}})", R"("\u00e9\ud83d\ude00\n")"})
    expect(!refused([&] { parse_json(good); }), std::string("reads ") + good);
  for (const char* bad :
       {"", "[1,]", "{\"a\":1,\"a\":2}", "01", "1.", ".5", "+1", "nul", "\"\\x\"", "\"\\ud800\"", "\"\\udc00\"",
        "[1] 2", "\"a", "{\"a\"}", "\"\n\"", "NaN", "-", "1e", "\"\\u12g4\"", "\"\\u 123\"", "'a'", "{", "[", "]"})
    expect(refused([&] { parse_json(bad); }), std::string("refuses ") + bad);
  expect(refused([] { parse_json(std::string(100000, '[')); }), "nesting ends somewhere");
  expect(refused([] { parse_json(std::string_view("\"\0\"", 3)); }), "no byte 0 in text");
  expect(parse_json(R"("\ud83d\ude00")").string() == "\xF0\x9F\x98\x80", "a surrogate pair is one character");
  expect(parse_json("9223372036854775807").integer() == std::numeric_limits<int64_t>::max(), "all 64 bits");
  expect(refused([] { parse_json("9223372036854775808").integer(); }), "and not one more");
  expect(refused([] { parse_json("1.5").integer(); }), "a fraction is no whole number");
  expect(refused([] { parse_json("{}").at("a"); }), "a missing key is refused");
  expect(refused([] { parse_json("[]").at("a"); }), "a list has no keys");
  expect(parse_json(R"({"a":1,"b":[2.0]})") == parse_json(R"({"b":[2],"a":1.0})"), "order and form do not matter");
  expect(!(parse_json("[1]") == parse_json("[2]")), "values do");
  expect(json_quoted("a\"\\\n\x01") == R"("a\"\\\n\u0001")", "no text forges a line of the log");
}

template <typename Number>
void finite_of(const std::string& name) {
  using Limits = std::numeric_limits<Number>;
  constexpr size_t kWidth = sizeof(Number);
  for (const size_t count : {1, 63, 64, 65, 200}) {
    std::vector<Number> values(count, Limits::max());
    values[0] = Limits::denorm_min(), values[count / 2] = -Limits::max();
    const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
    expect(first_not_finite(bytes, count, kWidth) == kAllFinite, name + ": the largest number is finite");
    for (const auto& [bad, word] : {std::pair{Limits::quiet_NaN(), "nan"}, std::pair{Limits::infinity(), "inf"},
                                    std::pair{-Limits::infinity(), "-inf"}}) {
      values[count - 1] = bad;
      expect(first_not_finite(bytes, count, kWidth) == count - 1, name + ": finds " + word);
      expect(not_finite_text(bytes, count - 1, kWidth) == std::string(word), name + ": says " + word);
      const size_t nan = std::string(word) == "nan" ? count - 1 : kAllFinite;
      expect(first_nan(bytes, count, kWidth) == nan, name + ": tells nan from " + word);
    }
  }
}

void what_is_not_finite_is_found() {
  finite_of<float>("float32");
  finite_of<double>("float64");
  const uint16_t half[] = {0x7BFF, 0x0001, 0xFC00};
  const auto* bytes = reinterpret_cast<const std::byte*>(half);
  expect(first_not_finite(bytes, 3, 2) == 2, "float16: finds -inf");
  expect(first_not_finite(bytes, 2, 2) == kAllFinite, "float16: the largest number is finite");
  const float masked[] = {-HUGE_VALF, 1, NAN, NAN};
  expect(first_nan(reinterpret_cast<const std::byte*>(masked), 4, 4) == 2, "finds nan behind infinity");
}

bool nests_within(size_t most, const std::string& text, size_t piece) {
  JsonDepth depth(most);
  for (size_t at = 0; at < text.size(); at += piece)
    if (!depth.add(text.data() + at, std::min(piece, text.size() - at))) return false;
  return true;
}

template <typename Number>
size_t outside(const std::vector<Number>& numbers, const Range& range, size_t elements) {
  return first_outside<Number>(reinterpret_cast<const std::byte*>(numbers.data()), numbers.size(), elements, range);
}

void integers_out_of_range_are_found() {
  constexpr auto kLargest = std::numeric_limits<int64_t>::max();
  const Range one{{-2}, {3}}, each{{0, -1}, {5, 1}};
  expect(outside<int64_t>({-2, 3, 0}, one, 1) == kAllWithin, "bounds are within");
  expect(outside<int64_t>({-2, 3, 4}, one, 1) == 2, "one above");
  expect(outside<int8_t>({-3, 3, 4}, one, 3) == 0, "the first of two");
  expect(outside<int32_t>({5, 1, 0, -1, 1, 5}, each, 2) == 5, "each element by its own");
  expect(outside<uint64_t>({7, UINT64_MAX}, {{0}, {7}}, 1) == 1, "what int64 cannot hold");
  expect(outside<uint64_t>({UINT64_MAX}, {{0}, {kLargest}}, 1) == kAllWithin, "an open end");
  expect(outside<uint8_t>({255, 0}, {{1}, {255}}, 1) == 1, "unsigned");
}

void nesting_is_counted_outside_of_texts() {
  for (const size_t piece : {1, 3, 1000}) {
    for (const char* shallow : {R"([[{"[[[[\\": "]\"[[["}, {}], [], []])", "]]]][[[", R"({"a": "[[[[)", "[][][][][]", ""})
      expect(nests_within(3, shallow, piece), std::string("at most 3: ") + shallow);
    for (const char* deep : {"[[[[", R"({"a\\": [{"b": [)", R"(["\"", [[[1]]]])", "]]][[[["})
      expect(!nests_within(3, deep, piece), std::string("more than 3: ") + deep);
  }
}

void only_a_name_of_this_server_is_one() {
  const std::vector<std::string> own = {"robot-7", "triton.internal"};
  for (const char* good : {"localhost", "LOCALHOST:8000", "127.0.0.1", "10.0.0.7:1", "[::1]", "[fe80::1]:8000", "robot-7:80",
                           "Triton.Internal"})
    expect(names_this_server(good, own), std::string("is this server: ") + good);
  for (const char* bad : {"", ":", ":80", "[", "]", "]:1", "[]", "[::1", "[robot-7]x", "localhost:x", "localhost:80x", "example.org",
                          "127.0.0.1.example.org", "localhost.example.org", "1.2.3", "robot-7.", "robot-7 "})
    expect(!names_this_server(bad, own), std::string("is not this server: ") + bad);
}

std::string lane_request(std::uint64_t offset, std::uint64_t bytes, std::int64_t rows, std::uint8_t type = 11) {
  lane::Writer writer;
  writer.number(std::uint32_t{lane::kInfer});
  writer.number(std::uint16_t{1});
  writer.number(std::uint16_t{1});
  writer.number(std::uint64_t{0});
  writer.number(std::int64_t{-1});
  writer.number(std::uint64_t{4096});
  for (const char* text : {"id", "walker", "action"}) writer.text(text);
  writer.tensor({"observation", type, offset, bytes, {rows, 4}});
  return writer.message();
}

void a_request_of_the_lane_stays_within_its_memory() {
  constexpr std::uint64_t kRegion = 1 << 16;
  constexpr auto kHuge = std::numeric_limits<std::uint64_t>::max();
  const auto good = lane_request(64, 32, 2);
  const auto request = lane::read_request(good, kRegion);
  expect(request.model == "walker" && request.id == "id" && request.outputs == std::vector<std::string>{"action"} &&
             request.inputs[0].offset == 64 && request.inputs[0].shape == std::vector<std::int64_t>{2, 4},
         "a request of the lane is read as it was written");
  const std::pair<const char*, std::string> bad[] = {
      {"behind the end", lane_request(kRegion - 16, 32, 2)},
      {"an offset that wraps around", lane_request(kHuge - 16, 32, 2)},
      {"more bytes than the shape", lane_request(64, 48, 2)},
      {"fewer bytes than the shape", lane_request(64, 16, 2)},
      {"a dimension below 0", lane_request(64, 32, -2)},
      {"a shape that wraps around", lane_request(64, 32, (std::int64_t{1} << 60) + 2)},
      {"strings", lane_request(64, 32, 2, 13)},
      {"an unknown type", lane_request(64, 32, 2, 200)},
      {"a byte too many", good + "x"},
      {"an id that no log can show", std::string(good).replace(good.find("id"), 2, "\n\x1b")},
      {"an unknown kind", std::string(good).replace(0, 1, 1, '\x09')},
  };
  for (const auto& [what, message] : bad) expect(refused([&] { lane::read_request(message, kRegion); }), what);
  for (std::size_t cut = 0; cut < good.size(); ++cut)
    expect(refused([&] { lane::read_request(good.substr(0, cut), kRegion); }), "a request that was cut");
  expect(refused([&] { lane::read_hello(good, kRegion); }), "a hello that is none");
}

// Any bytes give a request whose tensors lie in the memory, or are refused.
void noise_on_the_lane_is_harmless() {
  constexpr std::uint64_t kRegion = 1 << 16;
  std::mt19937_64 random(1);
  for (int round = 0; round < 200000; ++round) {
    auto message = lane_request(64, 32, 2);
    for (auto changes = 1 + random() % 4; changes > 0; --changes) message[random() % message.size()] = static_cast<char>(random());
    if (random() % 4 == 0) message.resize(random() % (message.size() + 1));
    try {
      const auto request = lane::read_request(message, kRegion);
      for (const auto& input : request.inputs)
        expect(input.offset <= kRegion && input.bytes <= kRegion - input.offset, "an input reaches past the memory");
    } catch (const Refused&) {
    }
  }
}

int run_tests() {
  sha256_is_that_of_the_standard();
  json_is_read_strictly();
  what_is_not_finite_is_found();
  integers_out_of_range_are_found();
  nesting_is_counted_outside_of_texts();
  only_a_name_of_this_server_is_one();
  a_request_of_the_lane_stays_within_its_memory();
  noise_on_the_lane_is_harmless();
  std::cout << (failures ? std::to_string(failures) + " failed" : "all passed") << "\n";
  return failures ? 1 : 0;
}

std::string standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

int serve_python(const std::string& what, int count, char** arguments) {
  if (what == "sha256") {
    std::cout << digest(standard_input(), 1 << 20) << "\n";
  } else if (what == "json") {
    std::cout << to_text(parse_json(standard_input())) << "\n";
  } else if (what == "read" && count >= 2) {
    const Release release = read_release(arguments[0], arguments[1], {arguments + 2, arguments + count});
    for (const auto& [path, bytes] : release.contents) std::cout << path << " " << digest(bytes, 1 << 20) << "\n";
  } else {
    std::cerr << "what?\n";
    return 2;
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 1) return run_tests();
  try {
    return serve_python(arguments[1], count - 2, arguments + 2);
  } catch (const Refused& refusal) {
    std::cerr << refusal.what() << "\n";
    return 1;
  }
}
