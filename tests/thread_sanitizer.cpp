// What the thread sanitizer is told, in every test that is built with it.

// oneDNN is not built with the sanitizer, which sees the locks that oneDNN takes and not the guards
// of its static objects: making two primitives at the same time looks like a race of the second
// with the making of the first lock. What oneDNN itself calls is not looked at; its callers and
// operands are.
extern "C" const char* __tsan_default_suppressions() { return "called_from_lib:libdnnl.so.2\n"; }
