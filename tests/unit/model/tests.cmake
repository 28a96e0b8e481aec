qh_unit_test(model/quant_test.c qh_model)
qh_unit_test(model/gguf_test.c qh_model)
qh_unit_test(model/weights_test.c qh_model)
set_property(TEST model/quant_test APPEND PROPERTY ENVIRONMENT "QH_TEST_GOLDEN=${CMAKE_SOURCE_DIR}/tests/golden")
