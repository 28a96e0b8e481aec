add_library(text_test_vocab STATIC unit/text/vocab_file.c)
target_link_libraries(text_test_vocab PUBLIC qh_text)
target_include_directories(text_test_vocab PUBLIC unit/text)

qh_unit_test(text/vectors_test.c text_test_vocab)
