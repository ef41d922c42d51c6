// Whether the Host of an HTTP request names this server, or whatever name a page of the web had resolve to it.
#pragma once

#include <string>
#include <vector>

// An address is always right: a page that was loaded by an address is this server's or its owner's. Of names, only
// `localhost` and those of `own` are.
bool names_this_server(const std::string& host, const std::vector<std::string>& own);
