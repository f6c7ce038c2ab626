// n-grams of tokenised captions as numbers: document frequencies of a corpus, and captions as sparse tf-idf vectors.
// No tensors and no Python here. Mathematics: Vedantam et al., CIDEr, CVPR 2015; itm_fast/relevance/cider.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "flat_map.h"

namespace itm {

using Tokens = std::vector<std::string_view>;

// Numbers for words and n-grams, given in order of first appearance. An n-gram is the n-gram without its last word
// (its prefix) and that word, both by number, so that no text is touched beyond the words.
class NgramTable {
 public:
  int32_t size() const { return size_; }
  int32_t find_word(std::string_view word) const;      // -1 if unknown
  int32_t find(int32_t prefix, uint32_t word) const;   // -1 if unknown
  int32_t find_or_add_word(std::string_view word);     // == size() before the call if it is new
  int32_t find_or_add(int32_t prefix, uint32_t word);  // likewise

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  int32_t next_number() const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> words_;
  FlatMap<uint64_t> pairs_;
  int32_t size_ = 0;
};

// In how many images of a corpus each n-gram occurs in at least one reference caption.
class DocumentFrequencies {
 public:
  explicit DocumentFrequencies(int32_t max_n);
  // From saved tables; throws std::invalid_argument where they contradict themselves.
  DocumentFrequencies(int32_t max_n, int64_t n_images, const std::vector<std::string_view>& words,
                      const std::vector<int32_t>& prefixes, const std::vector<int32_t>& last_words,
                      const std::vector<int32_t>& frequencies);

  void add_image(const std::vector<Tokens>& references);

  int32_t max_n() const { return max_n_; }
  int64_t n_images() const { return n_images_; }
  const NgramTable& table() const { return table_; }
  const std::vector<int32_t>& frequencies() const { return frequencies_; }
  // The tables as they are saved: of every n-gram its prefix (-1: it is a word) and its last word.
  const std::vector<int32_t>& prefixes() const { return prefixes_; }
  const std::vector<int32_t>& last_words() const { return last_words_; }
  const std::vector<std::string>& words() const { return words_; }

 private:
  int32_t word(std::string_view text);
  int32_t ngram(int32_t prefix, int32_t word);
  void count(int32_t id);

  int32_t max_n_;
  int64_t n_images_ = 0;
  NgramTable table_;
  std::vector<int32_t> frequencies_, prefixes_, last_words_;
  std::vector<int64_t> last_image_;
  std::vector<std::string> words_;
};

// Captions as sparse vectors. Feature numbers are the encoder's own, so that n-grams which the corpus of the document
// frequencies never saw still match each other.
//
// Unary counts (CIDEr-D): an n-gram that occurs t times is t features, its first to its t-th occurrence, each with
// count t. Then sum_g min(h, r) r of the clipped cosine is the plain dot product of ones and counts.
class Encoder {
 public:
  Encoder(std::shared_ptr<DocumentFrequencies> fitted, double log_n_images, bool unary);

  void add(const Tokens& caption);

  std::vector<int64_t> offsets{
      0};                         // [captions * max_n + 1]: features of caption c, order n from offsets[c * max_n + n]
  std::vector<int32_t> features;  // ascending within a caption and an order
  std::vector<int32_t> counts;    // how often the n-gram occurs in the caption
  std::vector<double> idf_squared;    // by feature
  std::vector<double> inverse_norms;  // [captions, max_n]; 0 where the norm is 0
  std::vector<int32_t> bigrams;       // [captions]: the length that the penalty compares

 private:
  int32_t word(std::string_view text);
  int32_t ngram(int32_t prefix, int32_t word);
  int32_t occurrence(int32_t ngram, int32_t number);
  void add_idf(int32_t fitted_id);

  std::shared_ptr<const DocumentFrequencies> fitted_;
  double log_n_images_;
  bool unary_;
  NgramTable table_;
  std::vector<int32_t> fitted_id_;  // by feature: its number in the fitted table, or -1
  std::vector<int32_t> words_;
};

}  // namespace itm
