foreach(name team float_ops attention attn_work forward)
  qh_unit_test(kernels/${name}_test.c qh_kernels)
endforeach()
# Every level, also under the thread sanitizer.
set_tests_properties(kernels/forward_test PROPERTIES TIMEOUT 600)
