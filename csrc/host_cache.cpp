#include "host_cache.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <string>

namespace moe_cute {
namespace {

std::string of_first_core(int level, char const* fact) {
  std::string const cache = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/";
  std::string text;
  std::ifstream(cache + fact) >> text;
  return text;
}

// Set bits of a mask such as "00000000,000000ff".
int64_t count_of(std::string const& mask) {
  int64_t bits = 0;
  for (char const digit : mask) {
    if (std::isxdigit(static_cast<unsigned char>(digit))) {
      bits += __builtin_popcount(static_cast<unsigned>(std::stoi(std::string(1, digit), nullptr, 16)));
    }
  }
  return bits;
}

}  // namespace

int64_t last_level_cache_bytes() {
  constexpr int64_t kUnknown = int64_t(32) << 20;
  for (int level = 3; level > 1; --level) {
    std::string const size = of_first_core(level, "size");  // as "32768K"
    int64_t const kib = size.size() > 1 && size.back() == 'K' ? std::atoll(size.c_str()) : 0;
    int64_t const sharing = count_of(of_first_core(level, "shared_cpu_map"));
    if (kib <= 0 || sharing <= 0) continue;
    int64_t const caches = std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN) / sharing);
    return caches * kib << 10;
  }
  return kUnknown;
}

}  // namespace moe_cute
