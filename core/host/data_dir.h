/* data_dir.h - where an app keeps its data. Thread: any. */
#pragma once

/* given, or when that is NULL $XDG_DATA_HOME/qhost/<app>-<8 hex digits of its full path>, with
 * ~/.local/share for a variable that is not set. Nothing is made. Caller frees with qh_free. */
char *qh_data_dir(const char *given, const char *app_path);
