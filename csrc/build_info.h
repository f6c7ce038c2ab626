// How the binary was built and what it runs on this processor, with the reasons.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace itm {

struct BuildInfo {
  std::vector<std::pair<const char*, std::string>> facts;
  std::vector<std::string> cpu_isas;
};

BuildInfo build_info();

}  // namespace itm
