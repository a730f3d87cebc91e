"""Applications of the benchmark's workers, and the scripts that call them; some run where only other libraries are."""
