// The entry of s3clip for the pages of models on the Hub, ready to be sent to huggingface.js:
// https://huggingface.co/docs/hub/models-adding-libraries. Each half goes into the file named above it, in
// packages/tasks/src, in the order of the alphabet; OWNER is where this repository lies. Our cards say
// `library_name: s3clip`, which is the key. tests/artifact/test_hub.py runs the snippet, and sees that a load reads
// config.json once: the file that counts as a download.

// model-libraries-snippets.ts
export const s3clip = (model: ModelData): string[] => [
	`from s3clip import SynonymousSpaceHead

head = SynonymousSpaceHead.from_pretrained("${model.id}")
for answer in head.predict("photo.jpg", top_k=3)[0]:
    print(answer.label, answer.score, answer.text)`,
];

// model-libraries.ts, in MODEL_LIBRARIES_UI_ELEMENTS
	s3clip: {
		prettyLabel: "s3clip",
		repoName: "s3clip",
		repoUrl: "https://github.com/OWNER/s3clip",
		snippets: snippets.s3clip,
		filter: false,
		countDownloads: `path:"config.json"`,
	},
