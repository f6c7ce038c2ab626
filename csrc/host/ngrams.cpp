#include "ngrams.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace itm {
namespace {

// Second halves of keys: numbers of words, and above them the occurrences of unary counts.
constexpr uint32_t kOccurrence = 0x80000000u;

uint64_t pair_key(int32_t prefix, uint32_t word) { return uint64_t(uint32_t(prefix)) << 32 | word; }

}  // namespace

int32_t NgramTable::next_number() const {
  if (size_ == std::numeric_limits<int32_t>::max()) throw std::length_error("more than 2^31 - 1 different n-grams");
  return size_;
}

int32_t NgramTable::find_word(std::string_view word) const {
  const auto found = words_.find(word);
  return found == words_.end() ? -1 : found->second;
}

int32_t NgramTable::find(int32_t prefix, uint32_t word) const { return pairs_.find(pair_key(prefix, word)); }

int32_t NgramTable::find_or_add_word(std::string_view word) {
  const auto found = words_.find(word);
  if (found != words_.end()) return found->second;
  words_.emplace(word, next_number());
  return size_++;
}

int32_t NgramTable::find_or_add(int32_t prefix, uint32_t word) {
  const int32_t id = pairs_.find_or_add(pair_key(prefix, word), next_number());
  if (id == size_) size_++;
  return id;
}

DocumentFrequencies::DocumentFrequencies(int32_t max_n) : max_n_(max_n) {}

DocumentFrequencies::DocumentFrequencies(int32_t max_n, int64_t n_images, const std::vector<std::string_view>& words,
                                         const std::vector<int32_t>& prefixes, const std::vector<int32_t>& last_words,
                                         const std::vector<int32_t>& frequencies)
    : max_n_(max_n), n_images_(n_images) {
  auto refuse = [](size_t id, const char* what) {
    throw std::invalid_argument("n-gram " + std::to_string(id) + " " + what);
  };
  if (prefixes.size() != last_words.size() || prefixes.size() != frequencies.size())
    throw std::invalid_argument("the tables prefixes, last_words and frequencies differ in length");
  std::vector<int32_t> order(prefixes.size());
  for (size_t id = 0; id < prefixes.size(); id++) {
    const int32_t prefix = prefixes[id], last = last_words[id];
    if (prefix == -1) {
      if (last != int64_t(words_.size()) || words_.size() == words.size()) refuse(id, "does not name the next word");
      if (word(words[words_.size()]) != int64_t(id)) refuse(id, "repeats a word");
      order[id] = 1;
    } else {
      if (prefix < 0 || prefix >= int64_t(id)) refuse(id, "has a prefix that does not come before it");
      if (last < 0 || last >= int64_t(id) || prefixes[last] != -1) refuse(id, "does not end in a word before it");
      if ((order[id] = order[prefix] + 1) > max_n) refuse(id, "is longer than n");
      if (ngram(prefix, last) != int64_t(id)) refuse(id, "occurs twice");
    }
    if (frequencies[id] < 1 || frequencies[id] > n_images) refuse(id, "occurs in no image, or in more than there are");
  }
  if (words_.size() != words.size()) throw std::invalid_argument("there are words that no n-gram names");
  frequencies_ = frequencies;
}

int32_t DocumentFrequencies::word(std::string_view text) {
  const int32_t id = table_.find_or_add_word(text);
  if (id == int64_t(prefixes_.size())) {
    prefixes_.push_back(-1);
    last_words_.push_back(int32_t(words_.size()));
    words_.emplace_back(text);
  }
  return id;
}

int32_t DocumentFrequencies::ngram(int32_t prefix, int32_t word) {
  const int32_t id = table_.find_or_add(prefix, uint32_t(word));
  if (id == int64_t(prefixes_.size())) {
    prefixes_.push_back(prefix);
    last_words_.push_back(word);
  }
  return id;
}

void DocumentFrequencies::count(int32_t id) {
  if (frequencies_.size() < prefixes_.size()) frequencies_.resize(prefixes_.size());
  if (last_image_.size() < prefixes_.size()) last_image_.resize(prefixes_.size(), -1);
  if (last_image_[id] == n_images_) return;
  last_image_[id] = n_images_;
  frequencies_[id]++;
}

void DocumentFrequencies::add_image(const std::vector<Tokens>& references) {
  std::vector<int32_t> words, ids;
  for (const Tokens& caption : references) {
    words.clear();
    for (std::string_view token : caption) words.push_back(word(token));
    ids = words;
    for (int32_t n = 1; n <= max_n_ && !ids.empty(); n++) {
      for (int32_t id : ids) count(id);
      ids.pop_back();
      if (n < max_n_)
        for (size_t i = 0; i < ids.size(); i++) ids[i] = ngram(ids[i], words[i + n]);
    }
  }
  n_images_++;
}

Encoder::Encoder(std::shared_ptr<DocumentFrequencies> fitted, double log_n_images, bool unary)
    : fitted_(std::move(fitted)), log_n_images_(log_n_images), unary_(unary) {}

void Encoder::add_idf(int32_t fitted_id) {
  const int32_t frequency = fitted_id < 0 ? 1 : fitted_->frequencies()[fitted_id];
  const double idf = log_n_images_ - std::log(double(frequency));
  fitted_id_.push_back(fitted_id);
  idf_squared.push_back(idf * idf);
}

int32_t Encoder::word(std::string_view text) {
  const int32_t id = table_.find_or_add_word(text);
  if (id == int64_t(fitted_id_.size())) add_idf(fitted_->table().find_word(text));
  return id;
}

int32_t Encoder::ngram(int32_t prefix, int32_t word) {
  const int32_t id = table_.find_or_add(prefix, uint32_t(word));
  if (id == int64_t(fitted_id_.size())) {
    const int32_t fitted_prefix = fitted_id_[prefix], fitted_word = fitted_id_[word];
    add_idf(fitted_prefix < 0 || fitted_word < 0 ? -1 : fitted_->table().find(fitted_prefix, uint32_t(fitted_word)));
  }
  return id;
}

int32_t Encoder::occurrence(int32_t ngram, int32_t number) {
  const int32_t id = table_.find_or_add(ngram, kOccurrence | uint32_t(number));
  if (id == int64_t(fitted_id_.size())) add_idf(fitted_id_[ngram]);
  return id;
}

void Encoder::add(const Tokens& caption) {
  const int32_t max_n = fitted_->max_n();
  words_.clear();
  for (std::string_view token : caption) words_.push_back(word(token));
  std::vector<int32_t> sorted, starts = words_;  // the n-gram that starts at each position
  std::vector<std::pair<int32_t, int32_t>> found;
  for (int32_t n = 0; n < max_n; n++) {
    sorted = starts;
    std::sort(sorted.begin(), sorted.end());
    found.clear();
    double squared_norm = 0;
    for (size_t i = 0; i < sorted.size();) {
      size_t end = i;
      while (end < sorted.size() && sorted[end] == sorted[i]) end++;
      const int32_t count = int32_t(end - i);
      squared_norm += double(count) * count * idf_squared[sorted[i]];
      found.emplace_back(sorted[i], count);
      for (int32_t k = 2; unary_ && k <= count; k++) found.emplace_back(occurrence(sorted[i], k), count);
      i = end;
    }
    std::sort(found.begin(), found.end());
    for (const auto& [feature, count] : found) {
      features.push_back(feature);
      counts.push_back(count);
    }
    offsets.push_back(int64_t(features.size()));
    inverse_norms.push_back(squared_norm > 0 ? 1 / std::sqrt(squared_norm) : 0);
    if (!starts.empty()) starts.pop_back();
    if (n + 1 < max_n)
      for (size_t i = 0; i < starts.size(); i++) starts[i] = ngram(starts[i], words_[i + n + 1]);
  }
  bigrams.push_back(int32_t(std::max<size_t>(caption.size(), 1) - 1));
}

}  // namespace itm
