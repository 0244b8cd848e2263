// What the files of the Python module share: how arrays cross.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace tritium {

namespace nb = nanobind;

template <class T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T, int kDims>
using Out = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T, int kDims>
using View = nb::ndarray<nb::numpy, T, nb::ndim<kDims>, nb::c_contig>;
template <class T, int kDims>
using StridedView = nb::ndarray<nb::numpy, T, nb::ndim<kDims>>;
using Bytes = In<uint8_t, 1>;

// The executor and the arrays of a step, as classes of the module.
void bind_program(nb::module_& m);

}  // namespace tritium
