#include "candidate_lists.h"

namespace itm {

void check_candidates(const Candidates& candidates) {
  for (int64_t i = 0; i < candidates.n_lists * candidates.k; i++) {
    const int64_t index = candidates.indices[i];
    ITM_CHECK_VALUE(index >= -1 && index < candidates.n_others, "candidates[", i / candidates.k, ", ", i % candidates.k,
                    "] is ", index, "; expected -1 for none, or 0 to ", candidates.n_others - 1);
  }
}

PairLists::PairLists(const Candidates& candidates, bool owners_list)
    : begin((owners_list ? candidates.n_lists : candidates.n_others) + 1, 0) {
  auto each = [&](auto&& act) {
    for (int64_t list = 0, i = 0; list < candidates.n_lists; list++)
      for (int64_t j = 0; j < candidates.k; j++, i++) {
        const int64_t other = candidates.indices[i], of = owners_list ? other : list;
        if (other >= 0) act(owners_list ? list : other, of, i);
      }
  };
  each([&](int64_t owner, int64_t, int64_t) { begin[owner + 1]++; });
  for (size_t o = 1; o < begin.size(); o++) begin[o] += begin[o - 1];
  member.resize(begin.back());
  slot.resize(begin.back());
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  each([&](int64_t owner, int64_t of, int64_t i) {
    const int64_t pair = next[owner]++;
    member[pair] = of;
    slot[pair] = i;
  });
}

bool lists_own(const Batch& listed, const Batch& others) {
  auto waste = [](const Batch& owners) {
    int64_t columns = 0;
    for (int64_t g = 0; g < owners.n_groups; g++) columns += round_up(owners.count(g), kColumnMultiple);
    return double(columns) / double(std::max<int64_t>(owners.total(), 1));
  };
  return waste(listed) <= 1.1 * waste(others);  // lists are long, what is made of lists turned may be short
}

}  // namespace itm
