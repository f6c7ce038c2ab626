// Launchers of csrc/cuda by name, for tests. No kernel's header is included here: a copy without hooks would be linked.
#include "listed_products.h"

extern "C" __attribute__((visibility("default"))) void multiply_lists_(const itm::cuda::ListedArgs* args, int product) {
  itm::cuda::multiply_lists(*args, itm::cuda::Product(product), nullptr);
}
