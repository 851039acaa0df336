// Which variant runs a call, and why not a better one.
#pragma once

#include <string>
#include <vector>

#include "machine.hpp"
#include "predecessor.hpp"
#include "variant.hpp"

namespace moe_cute {

struct Choice {
  Variant const* variant = nullptr;
  int threads = 0;        // CUDA: in a block
  int prefetch_kib = 0;   // CUDA: how much each multiprocessor asks for before the kernel before has ended
  bool measured = false;  // CUDA: from a launch rule alone
};

struct Refusal {
  Variant const* variant;
  std::string reason;
};

// The first variant in order of preference that accepts the call; none where a build has no variant for it.
Choice choose(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor);

// The same, with the refusals of all that were preferred over it.
Choice explain(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor,
               std::vector<Refusal>& refusals);

// The variant of that name, if it accepts the call; else `refusal` says why not.
Choice choose_by_name(std::string const& name, SumReduceArguments const& call, Machine const& machine,
                      Predecessor predecessor, std::string& refusal);

char const* name_of(InstructionSet instruction_set);
char const* name_of(Epilogue epilogue);
char const* name_of(Backend backend);

}  // namespace moe_cute
