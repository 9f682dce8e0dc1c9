from tests.conformance.run import main

raise SystemExit(main())
