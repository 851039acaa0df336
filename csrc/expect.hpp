// What can be asked of one argument, each with the error that tells what it was and what is allowed.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tensor_view.hpp"

namespace moe_cute {

// A refused argument. `wrong_type` tells a front end with two kinds of error which one it is.
struct ArgumentError : std::invalid_argument {
  ArgumentError(std::string const& argument, std::string const& was, std::string const& allowed,
                bool wrong_type = false)
      : std::invalid_argument(argument + ": was " + was + "; allowed: " + allowed), wrong_type(wrong_type) {}
  bool wrong_type;
};

// `shape` names the dimensions: "[tokens, topk]".
void expect_rank(char const* name, TensorView const& tensor, int rank, char const* shape);
void expect_shape(char const* name, TensorView const& tensor, std::initializer_list<int64_t> sizes, char const* shape);
void expect_one_element(char const* name, TensorView const& tensor);
void expect_contiguous(char const* name, TensorView const& tensor);

// Not memory that is gone, or never was, nor an address that is no multiple of an element's bytes: on a GPU, to read
// there is an error that no later call gets past.
void expect_memory(char const* name, TensorView const& tensor);

// The device of another argument.
void expect_device(char const* name, TensorView const& tensor, char const* other_name, TensorView const& other);

void expect_type(char const* name, TensorView const& tensor, Type type);
void expect_floating(char const* name, TensorView const& tensor);
void expect_index(char const* name, TensorView const& tensor);
// Not one that a C string would end within.
void expect_variant_name(std::string_view name);

[[noreturn]] void refuse_type(char const* name, TensorView const& tensor, std::string const& allowed);

}  // namespace moe_cute
