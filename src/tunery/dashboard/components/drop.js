export default {
  template: `
    <div class="drop" :class="{over, bad: message}" @dragover.prevent="over = true" @dragleave="over = false"
         @drop.prevent="over = false; send($event.dataTransfer.files[0])">
      <label>
        <input type="file" class="sr" :accept="accept" :disabled="sending" @change="choose" />
        <i class="material-icons" aria-hidden="true">upload_file</i>
        <span><strong>{{ texts.label }}</strong> <span class="as-link">{{ texts.choose }}</span></span>
        <small>{{ texts.hint }}</small>
      </label>
      <div v-if="sending" class="drop-progress" role="status">
        <progress :value="percent" max="100" :aria-label="texts.sending"></progress>
        <span>{{ percent < 100 ? texts.sending + " " + percent + " %" : texts.storing }}</span>
      </div>
      <div v-if="message" class="drop-message" role="alert">{{ message }}</div>
    </div>`,
  props: { url: String, accept: String, maxBytes: Number, texts: Object },
  emits: ["stored", "refused"],
  data: () => ({ over: false, sending: false, percent: 0, message: "" }),
  methods: {
    choose(event) {
      this.send(event.target.files[0]);
      event.target.value = "";
    },
    send(file) {
      if (!file || this.sending) return;
      this.message = "";
      this.$emit("refused", null);
      if (file.size > this.maxBytes) {
        this.message = this.texts.tooLarge;
        return;
      }
      this.sending = true;
      this.percent = 0;
      const request = new XMLHttpRequest();
      request.open("POST", this.url);
      request.setRequestHeader("X-Filename", encodeURIComponent(file.name));
      request.upload.onprogress = (event) => {
        this.percent = Math.min(100, Math.round((100 * event.loaded) / event.total));
      };
      request.onerror = () => this.end(this.texts.lost);
      request.onload = () => this.finish(request);
      request.send(file);
    },
    finish(request) {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        answer = { message: this.texts.lost };
      }
      this.end(request.status === 200 ? "" : answer.message || this.texts.lost);
      if (request.status === 200) this.$emit("stored", answer);
      else if (answer.report) this.$emit("refused", answer.report);
    },
    end(message) {
      this.sending = false;
      this.message = message;
    },
  },
};
