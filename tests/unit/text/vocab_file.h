/* vocab_file.h - tests only: the tokenizer keys of a GGUF file, so that core/text is tested without
 * core/model. Trusts the file's counts no further than its size; ends the test on a file it cannot
 * read. */
#pragma once
#include "text/vocab.h"

/* pretokenizer: in place of the file's own, unless NULL. NULL: the file is not there. Anything
 * wrong in it is printed and exits with status 1. */
qh_vocab *test_vocab_open(const char *path, const char *pretokenizer);
