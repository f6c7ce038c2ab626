// Types of the numbers in a tensor, as launchers are told.
#pragma once

namespace itm::cuda {

enum class Number { kFloat, kDouble, kBf16, kF16 };

}  // namespace itm::cuda
