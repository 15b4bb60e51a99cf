package jetstream_test

const crashDirEnv = "ESH3AR_JOURNAL_CRASH_DIR"

func appendUntilKilled(dir string) {}
