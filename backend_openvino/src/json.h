// A small strict JSON reader (RFC 8259), for texts that others may have written.
//
// It is ours because the wheels that this backend is built against ship none, and building must not
// need more than a compiler and those wheels. It promises: any bytes give a value or `Refused`, in
// memory proportional to the text; nesting is limited; a key that comes twice is refused, because two
// readers could take different ones; numbers keep their digits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct Json {
  enum class Kind { null, boolean, number, string, array, object };

  Kind kind = Kind::null;
  bool flag = false;
  std::string text;  // of a string, UTF-8; of a number, its digits
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  static Json of(std::string text);
  static Json of(int64_t number);

  const Json* find(std::string_view key) const;  // null where there is none
  const Json& at(std::string_view key) const;    // these refuse what has another kind
  Json& set(std::string_view key, Json value);
  const std::string& string() const;
  const std::vector<Json>& array() const;
  int64_t integer() const;
  double number() const;
  bool operator==(const Json& other) const;  // whatever the order of keys and the form of numbers
};

Json parse_json(std::string_view text);
std::string to_text(const Json& value);
std::string json_quoted(std::string_view text);  // as JSON, so that it cannot forge a line of the log
