#include "json.h"

#include <charconv>
#include <cstdlib>

#include "errors.h"

namespace {

constexpr int kDepth = 64;
constexpr const char* kKinds[] = {"null", "a boolean", "a number", "text", "a list", "an object"};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Json document() {
    Json value = read(0);
    space();
    if (at_ != text_.size()) fail("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* why) const {
    throw Refused("not JSON at byte " + std::to_string(at_) + ": " + why);
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }
  bool take(char wanted) {
    space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  void word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) fail("an unknown word");
    at_ += wanted.size();
  }

  Json read(int depth) {
    if (depth > kDepth) fail("nested too deep");
    space();
    Json value;
    switch (peek()) {
      case '{':
        value.kind = Json::Kind::object;
        object(value, depth);
        break;
      case '[':
        value.kind = Json::Kind::array;
        ++at_;
        if (take(']')) break;
        do value.items.push_back(read(depth + 1));
        while (take(','));
        if (!take(']')) fail("a list does not end");
        break;
      case '"':
        value = Json::of(string());
        break;
      case 't':
        word("true");
        value.kind = Json::Kind::boolean;
        value.flag = true;
        break;
      case 'f':
        word("false");
        value.kind = Json::Kind::boolean;
        break;
      case 'n':
        word("null");
        break;
      default:
        value.kind = Json::Kind::number;
        value.text = number();
    }
    return value;
  }

  void object(Json& value, int depth) {
    ++at_;
    if (take('}')) return;
    do {
      space();
      std::string key = string();
      if (value.find(key)) fail("a key comes twice");
      if (!take(':')) fail("a key without a value");
      value.members.emplace_back(std::move(key), read(depth + 1));
    } while (take(','));
    if (!take('}')) fail("an object does not end");
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("not a value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }
  std::string number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      digits();
    if (peek() == '.') ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    return std::string(text_.substr(start, at_ - start));
  }

  std::string string() {
    if (peek() != '"') fail("text expected");
    std::string found;
    for (++at_; peek() != '"'; ++at_) {
      const auto byte = static_cast<unsigned char>(peek());
      if (at_ >= text_.size() || byte < 0x20) fail("text does not end, or has a control character");
      if (byte == '\\')
        escape(found);
      else
        found += static_cast<char>(byte);
    }
    ++at_;
    return found;
  }

  void escape(std::string& found) {
    ++at_;
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    if (peek() != 'u') {
      const size_t which = at_ < text_.size() ? kNames.find(peek()) : kNames.npos;
      if (which == kNames.npos) fail("an unknown escape");
      found += kMeant[which];
      return;
    }
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_ + 1, 2) == "\\u") {
      at_ += 2;
      const uint32_t low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xD800 && code <= 0xDFFF) {
      fail("half of a surrogate pair");
    }
    encode(found, code);
  }
  uint32_t hex4() {  // leaves at_ on the last digit
    uint32_t code = 0;
    const char* start = text_.data() + at_ + 1;
    if (text_.size() - at_ < 5 || std::from_chars(start, start + 4, code, 16).ptr != start + 4) fail("a bad \\u");
    at_ += 4;
    return code;
  }
  static void encode(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    out += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | (code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
  }

  std::string_view text_;
  size_t at_ = 0;
};

const Json& expect(const Json& value, Json::Kind kind) {
  if (value.kind != kind)
    throw Refused(std::string("expected ") + kKinds[int(kind)] + ", found " + kKinds[int(value.kind)]);
  return value;
}

}  // namespace

Json Json::of(std::string text) {
  Json value;
  value.kind = Kind::string;
  value.text = std::move(text);
  return value;
}

Json Json::of(int64_t number) {
  Json value = of(std::to_string(number));
  value.kind = Kind::number;
  return value;
}

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members)
    if (name == key) return &value;
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = expect(*this, Kind::object).find(key);
  if (!found) throw Refused("the key " + json_quoted(key) + " is missing");
  return *found;
}

Json& Json::set(std::string_view key, Json value) {
  for (auto& [name, old] : members)
    if (name == key) return old = std::move(value);
  return members.emplace_back(std::string(key), std::move(value)).second;
}

const std::string& Json::string() const { return expect(*this, Kind::string).text; }

const std::vector<Json>& Json::array() const { return expect(*this, Kind::array).items; }

int64_t Json::integer() const {
  // Triton writes 64-bit integers as text.
  const std::string& digits = kind == Kind::string ? text : expect(*this, Kind::number).text;
  int64_t found = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), found);
  if (error != std::errc() || end != digits.data() + digits.size())
    throw Refused(json_quoted(digits) + " is not a whole number");
  return found;
}

double Json::number() const { return std::strtod(expect(*this, Kind::number).text.c_str(), nullptr); }

bool Json::operator==(const Json& other) const {
  if (kind != other.kind || flag != other.flag || members.size() != other.members.size()) return false;
  if (kind == Kind::number) return number() == other.number();
  for (const auto& [name, value] : members) {
    const Json* same = other.find(name);
    if (!same || !(value == *same)) return false;
  }
  return text == other.text && items == other.items;
}

Json parse_json(std::string_view text) { return Reader(text).document(); }

std::string json_quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += std::string("\\u00") + kHex[byte >> 4] + kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string to_text(const Json& value) {
  std::string out;
  switch (value.kind) {
    case Json::Kind::null:
      return "null";
    case Json::Kind::boolean:
      return value.flag ? "true" : "false";
    case Json::Kind::number:
      return value.text;
    case Json::Kind::string:
      return json_quoted(value.text);
    case Json::Kind::array:
      for (const Json& item : value.items) out += (out.empty() ? "" : ",") + to_text(item);
      return "[" + out + "]";
    case Json::Kind::object:
      for (const auto& [name, item] : value.members)
        out += (out.empty() ? "" : ",") + json_quoted(name) + ":" + to_text(item);
      return "{" + out + "}";
  }
  return out;
}
