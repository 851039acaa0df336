#include "steps.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace moe_cute {
namespace {

// Ascending, with steps of one length taken together, and those that shorter ones fill the gaps of: up to a 4s and b
// 12s reach what up to a + 3b 4s do, if a is 2 or more. Contiguous dimensions become one by that.
std::vector<Steps> merged(std::vector<Steps> steps) {
  std::sort(steps.begin(), steps.end(), [](Steps const& a, Steps const& b) { return a.length < b.length; });
  std::vector<Steps> result;
  for (Steps const& next : steps) {
    Steps* const last = result.empty() ? nullptr : &result.back();
    if (last && next.length % last->length == 0 && next.length / last->length <= last->most + 1) {
      last->most += next.length / last->length * next.most;
    } else {
      result.push_back(next);
    }
  }
  return result;
}

// Takes the longest steps first. What the others can reach at most leaves few numbers of them to try, where strides are
// those of dimensions that lie within each other: two or three. Other strides may have it try all, each once more for
// each longer step.
class Search {
 public:
  explicit Search(std::vector<Steps> const& merged) {
    Level below{{1, 0}, 0, 0};
    for (Steps const& steps : merged) {
      bool const is_first = levels_.empty();
      below = {steps, below.reach + steps.length * steps.most, is_first ? 0 : std::gcd(below.divisor, steps.length)};
      levels_.push_back(below);
    }
  }

  bool may_reach(int64_t distance) {
    return distance >= 0 && distance <= levels_.back().reach && may_reach(levels_.size() - 1, distance);
  }

 private:
  struct Level {
    Steps steps;
    int64_t reach;    // of these steps and all shorter ones together
    int64_t divisor;  // of the lengths of both, but for steps of 1
  };

  // By the steps of `level` and all shorter ones, whose reach is no less than `distance`.
  bool may_reach(size_t level, int64_t distance) {
    if (level == 0) return true;
    if (++tries_ > kMostTries) return true;
    auto const& [steps, reach, divisor] = levels_[level];
    if (distance % divisor > levels_[0].reach) return false;
    int64_t const beyond = distance - levels_[level - 1].reach;  // what shorter steps leave
    int64_t const least = beyond <= 0 ? 0 : (beyond - 1) / steps.length + 1;
    int64_t const most = std::min(steps.most, distance / steps.length);
    for (int64_t taken = least; taken <= most; ++taken) {
      if (may_reach(level - 1, distance - taken * steps.length)) return true;
    }
    return false;
  }

  static constexpr int kMostTries = 100'000;

  std::vector<Level> levels_;
  int tries_ = 0;
};

}  // namespace

bool may_add_up(std::vector<Steps> steps, int64_t distance) {
  return Search(merged(std::move(steps))).may_reach(distance);
}

}  // namespace moe_cute
