// Whether a variant can run a call.
#pragma once

#include <string>

#include "arguments.hpp"
#include "machine.hpp"
#include "variant.hpp"

namespace moe_cute {

// The least that can run the call.
Epilogue needed_epilogue(SumReduceArguments const& call);

// Why a variant cannot run the call; empty if it can.
std::string refuse(Variant const& variant, SumReduceArguments const& call, Machine const& machine);

}  // namespace moe_cute
