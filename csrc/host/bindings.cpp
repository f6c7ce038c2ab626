// itm_fast._C: loading it registers the operators (their static registrations live in this library); what Python asks
// of it directly is how it was built, what it runs here, and n-grams as numbers.
#undef TORCH_TARGET_VERSION  // where it is defined, the pybind11 that comes with torch 2.11 is an error
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <deque>

#include "../build_info.h"
#include "ngrams.h"

namespace py = pybind11;

namespace itm {
namespace {

// Views of the UTF-8 of Python strings, valid while both the strings and this object live.
class Text {
 public:
  std::string_view view(py::handle text) {
    if (!PyUnicode_Check(text.ptr()))
      throw py::type_error("a token is " + std::string(py::str(py::type::handle_of(text))) + ", expected str");
    Py_ssize_t size = 0;
    if (const char* utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size)) return {utf8, size_t(size)};
    PyErr_Clear();  // a lone surrogate, which has no UTF-8
    PyObject* bytes = PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass");
    if (bytes == nullptr) throw py::error_already_set();
    return kept_.emplace_back(py::reinterpret_steal<py::bytes>(bytes));
  }
  Tokens tokens(py::handle caption) {
    Tokens found;
    for (py::handle token : py::reinterpret_borrow<py::sequence>(caption)) found.push_back(view(token));
    return found;
  }

 private:
  std::deque<std::string> kept_;
};

template <class T>
py::array_t<T> moved(std::vector<T>&& values) {
  auto* owner = new std::vector<T>(std::move(values));
  return py::array_t<T>(py::ssize_t(owner->size()), owner->data(),
                        py::capsule(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); }));
}

void add_images(DocumentFrequencies& self, const py::sequence& images) {
  for (py::handle image : images) {
    Text text;
    std::vector<Tokens> references;
    for (py::handle caption : py::reinterpret_borrow<py::sequence>(image)) references.push_back(text.tokens(caption));
    self.add_image(references);
  }
}

py::dict tables(const DocumentFrequencies& self) {
  std::vector<uint8_t> words;
  std::vector<int64_t> word_ends;
  for (const std::string& word : self.words()) {
    words.insert(words.end(), word.begin(), word.end());
    word_ends.push_back(int64_t(words.size()));
  }
  py::dict result;
  result["words"] = moved(std::move(words));
  result["word_ends"] = moved(std::move(word_ends));
  result["prefixes"] = moved(std::vector<int32_t>(self.prefixes()));
  result["last_words"] = moved(std::vector<int32_t>(self.last_words()));
  result["frequencies"] = moved(std::vector<int32_t>(self.frequencies()));
  return result;
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

std::shared_ptr<DocumentFrequencies> from_tables(int32_t max_n, int64_t n_images, const Array<uint8_t>& words,
                                                 const Array<int64_t>& word_ends, const Array<int32_t>& prefixes,
                                                 const Array<int32_t>& last_words, const Array<int32_t>& frequencies) {
  std::vector<std::string_view> texts;
  int64_t begin = 0;
  for (py::ssize_t i = 0; i < word_ends.size(); i++) {
    const int64_t end = word_ends.data()[i];
    if (end < begin || end > words.size()) throw std::invalid_argument("word_ends do not cut words into words");
    texts.emplace_back(reinterpret_cast<const char*>(words.data()) + begin, size_t(end - begin));
    begin = end;
  }
  if (begin != words.size()) throw std::invalid_argument("word_ends do not cut words into words");
  auto vector = [](const Array<int32_t>& array) {
    return std::vector<int32_t>(array.data(), array.data() + array.size());
  };
  return std::make_shared<DocumentFrequencies>(max_n, n_images, texts, vector(prefixes), vector(last_words),
                                               vector(frequencies));
}

void add_captions(Encoder& self, const py::sequence& captions) {
  for (py::handle caption : captions) {
    Text text;
    self.add(text.tokens(caption));
  }
}

py::dict finish(Encoder& self) {
  py::dict result;
  result["offsets"] = moved(std::move(self.offsets));
  result["features"] = moved(std::move(self.features));
  result["counts"] = moved(std::move(self.counts));
  result["idf_squared"] = moved(std::move(self.idf_squared));
  result["inverse_norms"] = moved(std::move(self.inverse_norms));
  result["bigrams"] = moved(std::move(self.bigrams));
  return result;
}

py::dict build_info_of_python() {
  const BuildInfo info = build_info();
  py::dict result;
  for (const auto& [name, value] : info.facts) result[name] = value;
  py::list isas;
  for (const std::string& isa : info.cpu_isas) isas.append(isa);
  result["cpu_isas"] = isas;
  return result;
}

// DocumentFrequencies and Encoder of ngrams.h as Python classes; itm_fast/relevance uses them.
void bind_ngrams(py::module_& m) {
  py::class_<DocumentFrequencies, std::shared_ptr<DocumentFrequencies>>(
      m, "DocumentFrequencies", "In how many images each n-gram of the reference captions occurs.")
      .def(py::init<int32_t>(), py::arg("max_n"))
      .def("add_images", &add_images, "Counts images: a list of lists of token lists.")
      .def("tables", &tables, "The tables as arrays, to be saved.")
      .def_static("from_tables", &from_tables, py::arg("max_n"), py::arg("n_images"), py::arg("words"),
                  py::arg("word_ends"), py::arg("prefixes"), py::arg("last_words"), py::arg("frequencies"),
                  "The inverse of tables(); ValueError where they contradict themselves.")
      .def_property_readonly("max_n", &DocumentFrequencies::max_n)
      .def_property_readonly("n_images", &DocumentFrequencies::n_images)
      .def_property_readonly("most_images", [](const DocumentFrequencies& self) {
        const auto most = std::max_element(self.frequencies().begin(), self.frequencies().end());
        return most == self.frequencies().end() ? 0 : *most;
      });
  py::class_<Encoder>(m, "Encoder", "Captions to sparse tf-idf vectors.")
      .def(py::init<std::shared_ptr<DocumentFrequencies>, double, bool>(), py::arg("fitted"), py::arg("log_n_images"),
           py::arg("unary"))
      .def("add", &add_captions, "Encodes a list of token lists.")
      .def("finish", &finish, "The vectors of all captions as arrays; the encoder is empty afterwards.");
}

}  // namespace

// Declared for the operators in ops/tensor.h, which cannot be included beside pybind11.
void throw_type_error(const std::string& message) { throw py::type_error(message); }

}  // namespace itm

PYBIND11_MODULE(_C, m) {
  m.doc() = "Operators of itm_fast (registered with torch on import) and what they run on this machine.";
  m.def("build_info", &itm::build_info_of_python,
        "How this binary was built and what it runs on this processor, with the reasons.");
  itm::bind_ngrams(m);
}
