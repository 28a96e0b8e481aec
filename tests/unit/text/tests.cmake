add_library(text_test_vocab STATIC unit/text/vocab_file.c unit/text/toy_vocab.c)
target_link_libraries(text_test_vocab PUBLIC qh_text)
target_include_directories(text_test_vocab PUBLIC unit/text)

foreach(name utf8 vocab detok tokenizer vectors real)
  qh_unit_test(text/${name}_test.c text_test_vocab)
endforeach()

add_executable(text_tool unit/text/text_tool.c)
target_link_libraries(text_tool PRIVATE text_test_vocab)
