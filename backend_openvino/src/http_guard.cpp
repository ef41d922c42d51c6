// Refuses what Triton's HTTP server would read without bounds, and what a page of the web sent.
//
// Triton 2.51 takes a body of any size and any number of headers, and reads JSON by recursion, so that a million open
// brackets end the server. It unpacks compressed bodies whatever they become. It also answers any browser: a page that
// somebody opens on this machine may post to it, for that needs no permission, and may read the answers if its name
// resolves to this machine.
//
// So the guard stands in three functions of a table by which the parser of libevhtp hands over what it has read, and in
// the functions by which Triton's two HTTP servers (inference and metrics) take a whole request. A body that is too
// long is read and thrown away, so that its sender hears why.
#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "guard.h"
#include "host_name.h"
#include "json_depth.h"

namespace {

constexpr std::size_t kMostNesting = 64;
constexpr std::uint64_t kHeaderBytes = 64 << 10;

// What libevhtp 1.2.18 has, as far as it is used here.
struct Connection {
  char other[0x68];
  struct Request* request;
  std::uint64_t most_body_bytes;
  std::uint64_t body_bytes;  // of the request under way
};
struct Request {
  void *server, *connection, *hooks, *uri, *body, *answer, *headers, *answer_headers;
};
struct Piece {
  void* bytes;
  std::size_t size;
};

// Functions of Triton's executable. The first five are replaced, the others called.
struct Theirs {
  int (*header_key)(void* parser, const char* bytes, std::size_t size);
  int (*headers_complete)(void* parser);
  int (*body)(void* parser, const char* bytes, std::size_t size);
  void (*api)(void* server, Request* request);
  void (*metrics)(void* server, Request* request);
  Connection* (*connection)(void* parser);
  std::uint64_t (*bytes_read)(void* parser);
  std::uint64_t (*content_length)(void* parser);
  const char* (*header)(void* headers, const char* name);
  void* (*new_header)(const char* name, const char* value, char copy_name, char copy_value);
  void (*add_header)(void* headers, void* header);
  void (*resume)(Request* request);
  void (*reply)(Request* request, std::uint16_t status);
  std::size_t (*size)(void* buffer);
  int (*add)(void* buffer, const void* bytes, std::size_t size);
  int (*peek)(void* buffer, std::ptrdiff_t size, void* from, Piece* pieces, int count);
} theirs;

int header_key(void* parser, const char* bytes, std::size_t size) {
  return theirs.bytes_read(parser) > kHeaderBytes ? -1 : theirs.header_key(parser, bytes, size);
}

int headers_complete(void* parser) {
  if (auto* connection = theirs.connection(parser)) {
    const bool too_long = theirs.content_length(parser) > limits().request_bytes;
    connection->body_bytes = too_long ? limits().request_bytes + 1 : 0;
  }
  return theirs.headers_complete(parser);
}

int body(void* parser, const char* bytes, std::size_t size) {
  auto* connection = theirs.connection(parser);
  if (connection == nullptr || size + connection->body_bytes <= limits().request_bytes)
    return theirs.body(parser, bytes, size);
  connection->body_bytes = limits().request_bytes + 1;  // whatever comes now, the request is refused
  return 0;
}

struct Refusal {
  std::uint16_t status = 0;
  std::string text;
};

// How much of the body is JSON: Triton's binary tensors come behind it. The same reading of the header as Triton's.
std::size_t json_bytes(const Request& request, std::size_t body_bytes) {
  const char* header = theirs.header(request.headers, "Inference-Header-Content-Length");
  const int bytes = header ? std::atoi(header) : 0;
  return bytes > 0 && static_cast<std::size_t>(bytes) < body_bytes ? bytes : body_bytes;
}

bool nests_too_deep(const Request& request) {
  auto left = json_bytes(request, theirs.size(request.body));
  const int count = theirs.peek(request.body, static_cast<std::ptrdiff_t>(left), nullptr, nullptr, 0);
  std::vector<Piece> pieces(std::max(count, 0));
  theirs.peek(request.body, static_cast<std::ptrdiff_t>(left), nullptr, pieces.data(), count);
  JsonDepth depth(kMostNesting);
  for (const auto& piece : pieces) {
    const auto size = std::min(left, piece.size);
    if (!depth.add(static_cast<const char*>(piece.bytes), size)) return true;
    left -= size;
  }
  return false;
}

Refusal refusal(const Request& request) {
  const auto header = [&](const char* name) { return theirs.header(request.headers, name); };
  if (static_cast<const Connection*>(request.connection)->body_bytes > limits().request_bytes)
    return {413, "the request has more than " + std::to_string(limits().request_bytes) +
                     " bytes (POLICYCTL_SERVER__MAX_REQUEST_MIB)"};
  // Triton takes as many bytes as the first such header says, the parser as many as the last one or the chunks have.
  const char* length = header("Content-Length");
  if (length && std::to_string(theirs.size(request.body)) != length)
    return {400, "the request's Content-Length is not the length of its body"};
  const char* host = header("Host");
  if (host && !names_this_server(host, limits().hosts))
    return {403, "the request's Host is not a name of this server (POLICYCTL_SERVER__HTTP_HOSTS)"};
  const char* site = header("Sec-Fetch-Site");  // "none" is a person who typed the address
  if (header("Origin") || (site && std::string(site) != "none"))
    return {403, "the request comes from a web page; this server answers programs only"};
  const char* encoding = header("Content-Encoding");
  if (encoding && strcasecmp(encoding, "identity") != 0) return {415, "the request is compressed; send it as it is"};
  if (nests_too_deep(request))
    return {400, "the request's JSON nests deeper than " + std::to_string(kMostNesting) + " levels"};
  return {};
}

void answer(Request* request, const Refusal& refused) {
  const auto text = "{\"error\":\"" + refused.text + "\"}";
  theirs.add(request->answer, text.data(), text.size());
  theirs.add_header(request->answer_headers, theirs.new_header("Content-Type", "application/json", 1, 1));
  theirs.reply(request, refused.status);
}

template <void (*Theirs::*Handle)(void*, Request*)>
void handle(void* server, Request* request) {
  try {
    const auto refused = refusal(*request);
    if (refused.status == 0) return (theirs.*Handle)(server, request);
    answer(request, refused);
  } catch (const std::exception& error) {
    // Nobody else catches it, and it would end the server. Triton may have paused the connection for its answer.
    theirs.resume(request);
    answer(request, {500, std::string("Triton cannot read the request: ") + error.what()});
  }
}

// Calls `visit` with each function that is called here, and its name.
template <typename Visit>
void each_called(Visit visit) {
  visit("htparser_get_userdata", theirs.connection);
  visit("htparser_get_total_bytes_read", theirs.bytes_read);
  visit("htparser_get_content_length", theirs.content_length);
  visit("evhtp_header_find", theirs.header);
  visit("evhtp_header_new", theirs.new_header);
  visit("evhtp_headers_add_header", theirs.add_header);
  visit("evhtp_request_resume", theirs.resume);
  visit("evhtp_send_reply", theirs.reply);
  visit("evbuffer_get_length", theirs.size);
  visit("evbuffer_add", theirs.add);
  visit("evbuffer_peek", theirs.peek);
}

// And with each one that is replaced: the table that has it, its name, and ours.
template <typename Visit>
void each_replaced(Visit visit) {
  visit("request_psets", "htp__request_parse_header_key_", theirs.header_key, header_key);
  visit("request_psets", "htp__request_parse_headers_", theirs.headers_complete, headers_complete);
  visit("request_psets", "htp__request_parse_body_", theirs.body, body);
  visit("_ZTVN6triton6server13HTTPAPIServerE", "_ZN6triton6server13HTTPAPIServer6HandleEP13evhtp_request", theirs.api,
        handle<&Theirs::api>);
  visit("_ZTVN6triton6server17HTTPMetricsServerE", "_ZN6triton6server17HTTPMetricsServer6HandleEP13evhtp_request",
        theirs.metrics, handle<&Theirs::metrics>);
}

bool install(const Symbols& symbols) {
  each_called([&](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(symbols.at(name).address);
  });
  bool all = true;
  each_replaced([&](const char* table, const char* name, auto& function, auto ours) {
    void* replaced = replace_entry(symbols.at(table), symbols.at(name), reinterpret_cast<void*>(ours));
    function = reinterpret_cast<decltype(ours)>(replaced);
    all = all && replaced != nullptr;
  });
  return all;
}

}  // namespace

Part http_requests() {
  Part part{"HTTP requests", {}, install};
  each_called([&](const char* name, auto&) { part.symbols.push_back(name); });
  each_replaced([&](const char* table, const char* name, auto&, auto) {
    part.symbols.push_back(table);
    part.symbols.push_back(name);
  });
  return part;
}
