add_library(text_test_vocab STATIC unit/text/vocab_file.c unit/text/toy_vocab.c)
target_link_libraries(text_test_vocab PUBLIC qh_text)
target_include_directories(text_test_vocab PUBLIC unit/text)

foreach(name utf8 vocab detok tokenizer vectors real re)
  qh_unit_test(text/${name}_test.c text_test_vocab)
endforeach()

# text_tool: comparison with other tokenizers, and MB/s by hand (text_tool bench GGUF FILE)
add_executable(text_tool unit/text/text_tool.c)
target_link_libraries(text_tool PRIVATE text_test_vocab)

set(vocabs ${CMAKE_SOURCE_DIR}/../shared/data/tokenizers/ggml-vocab)
set(models $ENV{HOME}/.cache/qhost/models)
add_test(NAME text/compare_tokenizers COMMAND python3
  ${CMAKE_CURRENT_SOURCE_DIR}/unit/text/compare_tokenizers.py $<TARGET_FILE:text_tool>
  ${CMAKE_SOURCE_DIR}/../shared/data
  ${models}/SmolLM2-135M-Instruct.Q4_1.gguf ${models}/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
  ${vocabs}-starcoder.gguf ${vocabs}-falcon.gguf ${vocabs}-llama-spm.gguf ${vocabs}-phi-3.gguf
  ${vocabs}-gpt-2.gguf ${vocabs}-gpt-2.gguf@llama-bpe ${vocabs}-gpt-2.gguf@qwen2
  ${vocabs}-gpt-2.gguf@default)
set_tests_properties(text/compare_tokenizers PROPERTIES LABELS oracle TIMEOUT 600
  SKIP_RETURN_CODE 77)
