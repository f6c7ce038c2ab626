#include "parallel.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace itm {
namespace {

double choose() {
  const char* forced = std::getenv("ITM_FAST_GRAIN");
  if (forced == nullptr || *forced == '\0') return kWorkerWork;
  char* end = nullptr;
  const double work = std::strtod(forced, &end);
  if (*end != '\0' || !(work >= 1))
    throw std::invalid_argument(std::string("ITM_FAST_GRAIN must be a number of multiply-adds from 1 on, got ") +
                                forced);
  return work;
}

}  // namespace

double worker_work() {
  static const double work = choose();
  return work;
}

}  // namespace itm
