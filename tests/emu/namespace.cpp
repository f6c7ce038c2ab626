// The name of a library of emulated operators, the only thing in which its host code differs from another's.
extern "C" {
extern const char* const itm_emulated_namespace;
const char* const itm_emulated_namespace = ITM_EMULATED;
}
